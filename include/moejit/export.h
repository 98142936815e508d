// Marks what the shared library exports; everything else is hidden.
#pragma once

#if defined(__GNUC__)
#define MOEJIT_API __attribute__((visibility("default")))
#else
#define MOEJIT_API
#endif
