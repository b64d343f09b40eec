/* Directory entries as JSON: encode, and find the elements of a list. */
#include "native.h"

PyMethodDef entry_methods[] = {
    {NULL, NULL, 0, NULL},
};
