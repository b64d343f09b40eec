/* Content-defined cuts: buzhash and Rabin-Karp rolling hashes (format reference 6.3). */
#include "native.h"

PyMethodDef split_methods[] = {
    {NULL, NULL, 0, NULL},
};
