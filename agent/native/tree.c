/* Many small files at once: list, stat, read, create. */
#include "native.h"

PyMethodDef tree_methods[] = {
    {NULL, NULL, 0, NULL},
};
