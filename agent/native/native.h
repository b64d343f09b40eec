/* Shared declarations of the compiled inner loops; see module.c for what the module is for. */
#ifndef LIGHTERAGE_NATIVE_H
#define LIGHTERAGE_NATIVE_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NS_PER_SECOND 1000000000LL

void split_prepare(void); /* once, before any call */
int block_add_types(PyObject *m);
int rows_add_types(PyObject *m);
int attributes_add_type(PyObject *m);

extern PyMethodDef hash_methods[];
extern PyMethodDef scrypt_methods[];
extern PyMethodDef memory_methods[];
extern PyMethodDef split_methods[];
extern PyMethodDef index_methods[];
extern PyMethodDef tree_read_methods[];
extern PyMethodDef tree_survey_methods[];
extern PyMethodDef tree_write_methods[];
extern PyMethodDef entry_methods[];
extern PyMethodDef scan_methods[];
extern PyMethodDef read_ahead_methods[];

#endif
