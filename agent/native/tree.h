/* What both directions of the tree functions share. */
#ifndef LIGHTERAGE_TREE_H
#define LIGHTERAGE_TREE_H
#include "native.h"

#include <errno.h>
#include <string.h>

/* EINVAL for a name that is not one component of a path. */
static inline int entry_name_error(const char *name, Py_ssize_t length) {
    if (length == 0 || memchr(name, '/', length) != NULL || memchr(name, 0, length) != NULL) return EINVAL;
    if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))) return EINVAL;
    return 0;
}

#endif
