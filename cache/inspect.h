// Everything that `moejit cache` calls.
#pragma once

#include "cache/exchange.h"     // IWYU pragma: export
#include "cache/list.h"         // IWYU pragma: export
#include "cache/list_tuning.h"  // IWYU pragma: export
#include "cache/maintain.h"     // IWYU pragma: export
