/* Large buffers that are used again. A fresh block of memory costs a page fault and a cleared page for every 4 KiB, as
 * much as receiving what it is for; a pool keeps some of those that nobody refers to any more. The memory of a block is
 * given back when the last view of it is gone, wherever that was. */
#include "native.h"

#include <sys/mman.h>

enum { GRAIN = 1 << 20, SLOTS = 32 };

typedef struct {
    char *data;
    size_t capacity;
} Memory;

typedef struct {
    PyObject_HEAD
    size_t limit, kept;
    int count;
    Memory free[SLOTS]; /* oldest first */
} Pool;

typedef struct {
    PyObject_HEAD
    Pool *pool;
    Memory memory;
    Py_ssize_t length;
} Block;

static Memory remove_slot(Pool *pool, int slot) {
    Memory memory = pool->free[slot];
    pool->count--;
    pool->kept -= memory.capacity;
    memmove(pool->free + slot, pool->free + slot + 1, (size_t)(pool->count - slot) * sizeof(Memory));
    return memory;
}

static void drop_oldest(Pool *pool) {
    Memory memory = remove_slot(pool, 0);
    munmap(memory.data, memory.capacity);
}

static void block_dealloc(PyObject *self) {
    Block *block = (Block *)self;
    Pool *pool = block->pool;
    Memory memory = block->memory;
    if (memory.capacity > pool->limit) {
        munmap(memory.data, memory.capacity);
    } else {
        while (pool->count == SLOTS || pool->kept + memory.capacity > pool->limit) drop_oldest(pool);
        pool->free[pool->count++] = memory;
        pool->kept += memory.capacity;
    }
    Py_DECREF(pool);
    PyObject_Free(self);
}

static int block_buffer(PyObject *self, Py_buffer *view, int flags) {
    Block *block = (Block *)self;
    return PyBuffer_FillInfo(view, self, block->memory.data, block->length, 0, flags);
}

static PyBufferProcs block_as_buffer = {block_buffer, NULL};

static PyTypeObject BlockType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent._native.Block",
    .tp_basicsize = sizeof(Block),
    .tp_dealloc = block_dealloc,
    .tp_as_buffer = &block_as_buffer,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};

/* The smallest kept memory that is large enough, the largest made larger, or fresh. False when there is none. */
static int find_memory(Pool *pool, size_t capacity, Memory *memory) {
    int best = -1, largest = -1;
    for (int i = 0; i < pool->count; i++) {
        size_t kept = pool->free[i].capacity;
        if (kept >= capacity && (best < 0 || kept < pool->free[best].capacity)) best = i;
        if (largest < 0 || kept > pool->free[largest].capacity) largest = i;
    }
    if (best >= 0) {
        *memory = remove_slot(pool, best);
        return 1;
    }
#ifdef MREMAP_MAYMOVE
    if (largest >= 0) {
        *memory = remove_slot(pool, largest);
        char *data = mremap(memory->data, memory->capacity, capacity, MREMAP_MAYMOVE);
        if (data != MAP_FAILED) {
            memory->data = data;
            memory->capacity = capacity;
            return 1;
        }
        munmap(memory->data, memory->capacity);
    }
#endif
    memory->capacity = capacity;
    memory->data = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory->data != MAP_FAILED;
}

static PyObject *pool_take(PyObject *self, PyObject *argument) {
    Pool *pool = (Pool *)self;
    Py_ssize_t length = PyLong_AsSsize_t(argument);
    if (length == -1 && PyErr_Occurred()) return NULL;
    if (length < 1 || length > PY_SSIZE_T_MAX - GRAIN) {
        PyErr_SetString(PyExc_ValueError, "a block has at least one byte");
        return NULL;
    }
    Block *block = PyObject_New(Block, &BlockType);
    if (block == NULL) return NULL;
    if (!find_memory(pool, ((size_t)length + GRAIN - 1) / GRAIN * GRAIN, &block->memory)) {
        PyObject_Free(block);
        return PyErr_NoMemory();
    }
    block->length = length;
    block->pool = (Pool *)Py_NewRef(self);
    PyObject *view = PyMemoryView_FromObject((PyObject *)block);
    Py_DECREF(block);
    return view;
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    Py_ssize_t limit;
    if (keywords != NULL && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "BlockPool takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "n:BlockPool", &limit)) return NULL;
    Pool *pool = (Pool *)type->tp_alloc(type, 0);
    if (pool != NULL) pool->limit = limit > 0 ? (size_t)limit : 0;
    return (PyObject *)pool;
}

static void pool_dealloc(PyObject *self) {
    while (((Pool *)self)->count) drop_oldest((Pool *)self);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *pool_kept(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(((Pool *)self)->kept);
}

static PyMethodDef pool_methods[] = {
    {"take", pool_take, METH_O, "A writable view of so many bytes with whatever is in them."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef pool_fields[] = {
    {"kept", pool_kept, NULL, "Bytes kept for the next one.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject PoolType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent._native.BlockPool",
    .tp_doc = "Large buffers that are used again.",
    .tp_basicsize = sizeof(Pool),
    .tp_new = pool_new,
    .tp_dealloc = pool_dealloc,
    .tp_methods = pool_methods,
    .tp_getset = pool_fields,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int block_add_types(PyObject *m) {
    if (PyType_Ready(&BlockType) < 0) return -1;
    return PyModule_AddType(m, &PoolType);
}
