/* What the files of the library share. */
#ifndef TIDEMILL_EXPORT_H
#define TIDEMILL_EXPORT_H

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#endif
