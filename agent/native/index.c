/* Search in sorted index keys. */
#include "native.h"

PyMethodDef index_methods[] = {
    {NULL, NULL, 0, NULL},
};
