/* recvmmsg(2) and sendmmsg(2) for `compiled.py`, with the loops over datagrams in C.
 *
 * Optional: Python does the same without it, for more time per datagram. Each function names the Python that it stands
 * for; the tests run both. Nothing here knows the meaning of a payload, a peer or a control message. The caller passes
 * the class of the values (`Kind`), and tables that map octets to peers and control messages (`Recipe`).
 *
 * Only the stable ABI of CPython 3.11 is used, so that one binary serves all later versions.
 */

#define _GNU_SOURCE /* struct mmsghdr */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_BATCH 1024 /* UIO_MAXIOV (linux/uio.h): the kernel takes no more in one call. */
#define ADDRESS_AT 4   /* Where the address is in a struct sockaddr_in, */
#define ADDRESS_SIZE 4 /* and its length. */

/* The slots of the values, in this order. */
enum { PAYLOAD, PEER, CONTROL, TRUNCATED, FIELDS };

/* A class with slots, and the descriptors by which they are read and stored. */
typedef struct {
    PyTypeObject *type;
    PyObject *field[FIELDS];
    descrgetfunc get;
    descrsetfunc set;
} Kind;

/* Read a `Kind` of Python's. Only tuples will do: of a list or a lazy sequence, nothing would keep the elements alive. */
static int
kind_from(PyObject *value, Kind *kind)
{
    PyObject *type, *fields;
    if (!PyTuple_Check(value) || PyTuple_Size(value) != 2 || !PyType_Check(type = PyTuple_GetItem(value, 0)) ||
        !PyTuple_Check(fields = PyTuple_GetItem(value, 1)) || PyTuple_Size(fields) != FIELDS) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of a class and a tuple of its four slots");
        return -1;
    }
    kind->type = (PyTypeObject *)type;
    for (int i = 0; i < FIELDS; i++) {
        PyObject *field = kind->field[i] = PyTuple_GetItem(fields, i);
        if (Py_TYPE(field) != &PyMemberDescr_Type) {
            PyErr_SetString(PyExc_TypeError, "expected a slot's descriptor");
            return -1;
        }
    }
    kind->get = (descrgetfunc)PyType_GetSlot(&PyMemberDescr_Type, Py_tp_descr_get);
    kind->set = (descrsetfunc)PyType_GetSlot(&PyMemberDescr_Type, Py_tp_descr_set);
    return 0;
}

/* Make a value as the class's own constructor would, of parts that need no check, and append it to a list. */
static int
append_value(PyObject *list, const Kind *kind, const char *octets, Py_ssize_t length, PyObject *peer, PyObject *control)
{
    int result = -1;
    PyObject *value = NULL, *payload = PyBytes_FromStringAndSize(octets, length);
    if (payload != NULL && (value = PyType_GenericAlloc(kind->type, 0)) != NULL) {
        if (kind->set(kind->field[PAYLOAD], value, payload) == 0 && kind->set(kind->field[PEER], value, peer) == 0 &&
            kind->set(kind->field[CONTROL], value, control) == 0 &&
            kind->set(kind->field[TRUNCATED], value, Py_False) == 0) {
            /* Immutable, of parts that hold nothing but octets and numbers: it can't be in a cycle. */
            PyObject_GC_UnTrack(value);
            result = PyList_Append(list, value);
        }
    }
    Py_XDECREF(value);
    Py_XDECREF(payload);
    return result;
}

/* What was made of the octets of the last datagram: most datagrams of a batch have the same. */
typedef struct {
    const char *octets;
    size_t length;
    PyObject *made;
} Last;

static int
is_last(const Last *last, const void *octets, size_t length)
{
    return last->made != NULL && last->length == length && memcmp(last->octets, octets, length) == 0;
}

/* Look up what is made of some octets, and of a sender's address behind them, if one is given. */
static int
look_up(Last *last, PyObject *table, const char *octets, size_t length, const char *address)
{
    PyObject *key = PyBytes_FromStringAndSize(NULL, length + (address != NULL ? ADDRESS_SIZE : 0));
    if (key == NULL)
        return -1;
    char *inside = PyBytes_AsString(key);
    memcpy(inside, octets, length);
    if (address != NULL)
        memcpy(inside + length, address, ADDRESS_SIZE);
    Py_XDECREF(last->made);
    last->octets = octets;
    last->length = length;
    last->made = PyObject_GetItem(table, key);
    Py_DECREF(key);
    return last->made != NULL ? 0 : -1;
}

PyDoc_STRVAR(receive_doc,
"receive(descriptor, memory, limit, control_size) -> int\n\n"
"Receive up to `limit` datagrams into the array of struct mmsghdr at the start of `memory`; return how many: 0 if none\n"
"is queued. Python: `fill` in by_ctypes.py.");

static PyObject *
receive(PyObject *module, PyObject *args)
{
    int descriptor, limit, count;
    Py_ssize_t control_size;
    Py_buffer memory;
    if (!PyArg_ParseTuple(args, "iw*in:receive", &descriptor, &memory, &limit, &control_size))
        return NULL;
    struct mmsghdr *headers = memory.buf;
    if (limit < 1 || memory.len / (Py_ssize_t)sizeof *headers < limit) {
        PyBuffer_Release(&memory);
        PyErr_SetString(PyExc_ValueError, "the memory has no room for as many datagrams");
        return NULL;
    }
    for (int i = 0; i < limit; i++) {
        /* The kernel overwrites the lengths that say how much room there is. */
        headers[i].msg_hdr.msg_namelen = sizeof(struct sockaddr_in);
        headers[i].msg_hdr.msg_controllen = control_size;
    }
    Py_BEGIN_ALLOW_THREADS
    do
        count = recvmmsg(descriptor, headers, limit, MSG_DONTWAIT, NULL);
    while (count < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    PyObject *result = count < 0 && errno != EAGAIN ? PyErr_SetFromErrno(PyExc_OSError)
                                                    : PyLong_FromLong(count < 0 ? 0 : count);
    PyBuffer_Release(&memory);
    return result;
}

PyDoc_STRVAR(values_doc,
"values(memory, count, recipe) -> list | None\n\n"
"Make values of the first `count` datagrams in `memory`, by a `Recipe`; `None` if one of them was cut off, which takes\n"
"more than a recipe. Python: `Slots.columns`, and the caller makes the values.");

static PyObject *
values(PyObject *module, PyObject *args)
{
    int count, with_source;
    Py_buffer memory;
    Kind kind;
    PyObject *recipe, *of_kind, *peers, *controls, *sizes, *list = NULL;
    Last peer = {0}, control = {0}, size = {0};
    if (!PyArg_ParseTuple(args, "y*iO!:values", &memory, &count, &PyTuple_Type, &recipe))
        return NULL;
    const struct mmsghdr *headers = memory.buf;
    if (!PyArg_ParseTuple(recipe, "OOOpO:values", &of_kind, &peers, &controls, &with_source, &sizes) ||
        kind_from(of_kind, &kind) < 0)
        goto done;
    if (count < 0 || memory.len / (Py_ssize_t)sizeof *headers < count) {
        PyErr_SetString(PyExc_ValueError, "the memory does not hold as many datagrams");
        goto done;
    }
    for (int i = 0; i < count; i++) {
        if (headers[i].msg_hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
            list = Py_NewRef(Py_None);
            goto done;
        }
    }
    if ((list = PyList_New(0)) == NULL)
        goto done;
    for (int i = 0; i < count; i++) {
        const struct msghdr *header = &headers[i].msg_hdr;
        const char *name = header->msg_name, *octets = header->msg_iov[0].iov_base;
        Py_ssize_t length = headers[i].msg_len, segment = 0;
        int same_sender = is_last(&peer, name, sizeof(struct sockaddr_in));
        if (!same_sender && look_up(&peer, peers, name, sizeof(struct sockaddr_in), NULL) < 0)
            goto failed;
        if (!(is_last(&control, header->msg_control, header->msg_controllen) && (same_sender || !with_source)) &&
            look_up(&control, controls, header->msg_control, header->msg_controllen,
                    with_source ? name + ADDRESS_AT : NULL) < 0)
            goto failed;
        if (sizes != Py_None) {
            if (!is_last(&size, header->msg_control, header->msg_controllen) &&
                look_up(&size, sizes, header->msg_control, header->msg_controllen, NULL) < 0)
                goto failed;
            segment = PyLong_AsSsize_t(size.made);
            if (segment == -1 && PyErr_Occurred())
                goto failed;
        }
        if (segment <= 0)
            segment = length;
        do {
            if (append_value(list, &kind, octets, segment < length ? segment : length, peer.made, control.made) < 0)
                goto failed;
            octets += segment;
            length -= segment;
        } while (length > 0);
    }
    goto done;
failed:
    Py_CLEAR(list);
done:
    Py_XDECREF(peer.made);
    Py_XDECREF(control.made);
    Py_XDECREF(size.made);
    PyBuffer_Release(&memory);
    return list;
}

/* What was made of the last object: in a batch, the same peer and the same control message come again and again. */
typedef struct {
    PyObject *from;
    PyObject *made;
} Made;

/* Return make(with, from), reusing the previous result for the same object. Steals the reference to `from`. */
static PyObject *
made_of(Made *last, PyObject *from, binaryfunc make, PyObject *with)
{
    if (from != last->from) {
        Py_XDECREF(last->from);
        Py_XDECREF(last->made);
        last->from = Py_NewRef(from);
        last->made = make(with, from);
    }
    Py_DECREF(from);
    return Py_XNewRef(last->made);
}

static PyObject *
call(PyObject *function, PyObject *argument)
{
    return PyObject_CallFunctionObjArgs(function, argument, NULL);
}

PyDoc_STRVAR(columns_doc,
"columns(values, kind, names, request) -> tuple[list[bytes], list[bytes], list[bytes]] | None\n\n"
"Return the payloads of values, the struct sockaddr_in of their peers, which `names` tells, and the octets that\n"
"`request(control)` makes of their control messages; `None` if one of them is not of this very kind.\n"
"Python: `take_apart` in columns.py.");

static PyObject *
columns(PyObject *module, PyObject *args)
{
    enum { COLUMNS = CONTROL + 1 };
    const binaryfunc make[COLUMNS] = {NULL, PyObject_GetItem, call};
    Kind kind;
    Made last[COLUMNS] = {{NULL}};
    PyObject *sequence, *of_kind, *with[COLUMNS] = {NULL}, *column[COLUMNS] = {NULL}, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!OOO:columns", &PyTuple_Type, &sequence, &of_kind, &with[PEER], &with[CONTROL]) ||
        kind_from(of_kind, &kind) < 0)
        return NULL;
    Py_ssize_t count = PyTuple_Size(sequence);
    /* The lists grow by appending. What calls Python meanwhile lets other threads run, and one that walks the garbage
       collector's lists, as heap profilers do, must find no list with holes. */
    for (int j = 0; j < COLUMNS; j++)
        if ((column[j] = PyList_New(0)) == NULL)
            goto done;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = PyTuple_GetItem(sequence, i);
        if (Py_TYPE(value) != kind.type) {
            result = Py_NewRef(Py_None);
            goto done;
        }
        for (int j = 0; j < COLUMNS; j++) {
            PyObject *part = kind.get(kind.field[j], value, (PyObject *)kind.type);
            if (part != NULL && make[j] != NULL)
                part = made_of(&last[j], part, make[j], with[j]);
            int appended = part != NULL ? PyList_Append(column[j], part) : -1;
            Py_XDECREF(part);
            if (appended < 0)
                goto done;
        }
    }
    result = PyTuple_Pack(COLUMNS, column[PAYLOAD], column[PEER], column[CONTROL]);
done:
    for (int j = 0; j < COLUMNS; j++) {
        Py_XDECREF(column[j]);
        Py_XDECREF(last[j].from);
        Py_XDECREF(last[j].made);
    }
    return result;
}

/* Say where the octets of an element are. They stay there as long as the tuple lives. */
static int
octets_at(PyObject *tuple, Py_ssize_t i, void *start, size_t *length)
{
    char *octets;
    Py_ssize_t size;
    PyObject *element = PyTuple_GetItem(tuple, i);
    if (element == NULL || PyBytes_AsStringAndSize(element, &octets, &size) < 0)
        return -1;
    *(void **)start = octets;
    *length = size;
    return 0;
}

/* Return a new reference to a list or a tuple as a tuple. It keeps the octets alive while the kernel reads them: another
   thread may change a list meanwhile, and a lazy sequence keeps nothing. */
static PyObject *
as_tuple(PyObject *column)
{
    if (PyTuple_Check(column))
        return Py_NewRef(column);
    if (PyList_Check(column))
        return PyList_AsTuple(column);
    PyErr_Format(PyExc_TypeError, "expected a list or a tuple of bytes, got %R", column);
    return NULL;
}

PyDoc_STRVAR(send_doc,
"send(descriptor, payloads, names, controls) -> int\n\n"
"Send datagrams, the first 1,024 at most, each to a struct sockaddr_in with its control messages; return how many the\n"
"kernel took. Python: `_Headers.send` in by_ctypes.py.");

static PyObject *
send_(PyObject *module, PyObject *args)
{
    enum { COLUMNS = CONTROL + 1 };
    int descriptor, sent;
    PyObject *given[COLUMNS], *column[COLUMNS] = {NULL}, *result = NULL;
    struct mmsghdr *headers = NULL;
    if (!PyArg_ParseTuple(args, "iOOO:send", &descriptor, &given[PAYLOAD], &given[PEER], &given[CONTROL]))
        return NULL;
    for (int j = 0; j < COLUMNS; j++)
        if ((column[j] = as_tuple(given[j])) == NULL)
            goto done;
    Py_ssize_t count = PyTuple_Size(column[PAYLOAD]);
    if (count > MAX_BATCH)
        count = MAX_BATCH;
    if ((headers = PyMem_Calloc(count + 1, sizeof(struct mmsghdr) + sizeof(struct iovec))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    struct iovec *vectors = (struct iovec *)(headers + count);
    for (Py_ssize_t i = 0; i < count; i++) {
        struct msghdr *header = &headers[i].msg_hdr;
        size_t name_length = 0, control_length = 0;
        header->msg_iov = &vectors[i];
        header->msg_iovlen = 1;
        if (octets_at(column[PAYLOAD], i, &vectors[i].iov_base, &vectors[i].iov_len) < 0 ||
            octets_at(column[PEER], i, &header->msg_name, &name_length) < 0 ||
            octets_at(column[CONTROL], i, &header->msg_control, &control_length) < 0)
            goto done;
        header->msg_namelen = name_length;
        header->msg_controllen = control_length;
    }
    Py_BEGIN_ALLOW_THREADS
    do
        sent = sendmmsg(descriptor, headers, count, MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    result = sent < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(sent);
done:
    PyMem_Free(headers);
    for (int j = 0; j < COLUMNS; j++)
        Py_XDECREF(column[j]);
    return result;
}

static PyMethodDef functions[] = {
    {"receive", receive, METH_VARARGS, receive_doc},
    {"values", values, METH_VARARGS, values_doc},
    {"columns", columns, METH_VARARGS, columns_doc},
    {"send", send_, METH_VARARGS, send_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_mmsg",
    .m_doc = "recvmmsg(2) and sendmmsg(2), with the loops over datagrams in C.",
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__mmsg(void)
{
    return PyModuleDef_Init(&definition);
}
