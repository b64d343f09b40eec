/* What lstat says of one entry, as an object: made by the million, so it is the numbers themselves. */
#ifndef LIGHTERAGE_ATTRIBUTES_H
#define LIGHTERAGE_ATTRIBUTES_H
#include "native.h"

#include <stdint.h>
#include <sys/stat.h>

struct attributes {
    int64_t size, mtime_ns;
    uint64_t dev, ino, nlink, rdev;
    uint32_t mode, uid, gid, none; /* 0; objects are compared as bytes */
};

struct attributes attributes_of_stat(const struct stat *st);
PyObject *attributes_new(const struct attributes *values);
/* NULL and a TypeError for anything else. */
const struct attributes *attributes_values(PyObject *object);

#endif
