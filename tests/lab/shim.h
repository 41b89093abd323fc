/* The parts of the preloaded library that stand behind the calls of shim.c: which paths are watched, the record,
 * the faults, the lies. The layout of an event is that of tests/lab/record.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BEGIN, END, NOTE };
enum { OPEN = 1, READ, WRITE, SYNC, TRUNCATE, ALLOCATE, RENAME, UNLINK, MKDIR, LINK, CLASSES };
enum { FAIL, SHORT, SHORT_THEN_FAIL, FAIL_FROM_THEN_ON };
enum { LIED = 1, DATA_ONLY = 2, IS_DIR = 4 };

struct event {
    uint32_t bytes;
    uint8_t phase, call;
    uint16_t flags;
    uint64_t token, ino;
    int64_t a, b, result;
    int32_t error;
    uint16_t name_bytes, name2_bytes;
};

static char root[PATH_MAX];
static size_t root_bytes;
static int record_fd = -1;
static long sync_us;
static int lie_log, lie_dir, lie_state, lie_cut, lie_slots;
static atomic_uint_fast64_t next_token;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counts[CLASSES];
static char only[256], fired_path[PATH_MAX];
static int armed, armed_class, armed_errno, armed_mode, fired, paused, then_class, then_errno;
static long armed_nth, then_nth;
#define CUTS 64
static uint64_t cut_inodes[CUTS]; /* files whose last change was a truncation */

__attribute__((constructor)) static void start(void) {
    const char *value = getenv("LAB_ROOT");
    if (value && snprintf(root, sizeof root, "%s", value) < (int)sizeof root) root_bytes = strlen(root);
    if ((value = getenv("LAB_RECORD")))
        record_fd = (int)syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if ((value = getenv("LAB_SYNC_US"))) sync_us = atol(value);
    if ((value = getenv("LAB_LIE"))) {
        lie_log = strstr(value, "log") != NULL;
        lie_dir = strstr(value, "dir") != NULL;
        lie_state = strstr(value, "state") != NULL;
        lie_cut = strstr(value, "cut") != NULL;
        lie_slots = strstr(value, "slots") != NULL;
    }
    atomic_store(&next_token, (uint64_t)getpid() << 32);
}

/* ---- which paths are ours ---- */

static int under_root(const char *path) {
    return root_bytes && !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

static int fd_path(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

static int watched_fd(int fd, char *path) {
    int kept = errno, ours = root_bytes && fd >= 0 && fd_path(fd, path) && under_root(path);
    errno = kept;
    return ours;
}

static int watched_at(int dirfd, const char *path, char *out) {
    if (!root_bytes || !path) return 0;
    int kept = errno, n;
    char base[PATH_MAX];
    if (path[0] == '/') n = snprintf(out, PATH_MAX, "%s", path);
    else if (dirfd == AT_FDCWD ? getcwd(base, sizeof base) != NULL : fd_path(dirfd, base))
        n = snprintf(out, PATH_MAX, "%s/%s", base, path);
    else n = PATH_MAX;
    errno = kept;
    return n < PATH_MAX && under_root(out);
}

static uint64_t inode_of(int fd, int *is_dir) {
    struct stat st;
    int kept = errno;
    if (fstat(fd, &st)) st.st_ino = 0, st.st_mode = 0;
    if (is_dir) *is_dir = S_ISDIR(st.st_mode);
    errno = kept;
    return st.st_ino;
}

/* ---- recording ---- */

static void emit(struct event *event, const char *name, const char *name2, const struct iovec *data, int parts) {
    if (record_fd < 0) return;
    int kept = errno;
    struct iovec all[3 + parts];
    event->name_bytes = name ? strlen(name) : 0;
    event->name2_bytes = name2 ? strlen(name2) : 0;
    all[0] = (struct iovec){event, sizeof *event};
    all[1] = (struct iovec){(void *)name, event->name_bytes};
    all[2] = (struct iovec){(void *)name2, event->name2_bytes};
    for (int i = 0; i < parts; i++) all[3 + i] = data[i];
    size_t total = 0;
    for (int i = 0; i < 3 + parts; i++) total += all[i].iov_len;
    event->bytes = (uint32_t)total;
    if (syscall(SYS_writev, record_fd, all, 3 + parts) != (ssize_t)total) abort(); /* a record with gaps proves nothing */
    errno = kept;
}

static uint64_t begin(int call, int flags, uint64_t ino, int64_t a, int64_t b, const char *name, const char *name2,
                      const struct iovec *data, int parts) {
    uint64_t token = atomic_fetch_add(&next_token, 1);
    struct event event = {.phase = BEGIN, .call = call, .flags = flags, .token = token, .ino = ino, .a = a, .b = b};
    emit(&event, name, name2, data, parts);
    return token;
}

static void end(int call, uint64_t token, uint64_t ino, int64_t result) {
    struct event event = {
        .phase = END, .call = call, .token = token, .ino = ino, .result = result, .error = result < 0 ? errno : 0};
    emit(&event, NULL, NULL, NULL, 0);
}

void lab_note(uint32_t kind, uint64_t a, uint64_t b) {
    struct event event = {.phase = NOTE, .call = kind, .a = (int64_t)a, .b = (int64_t)b};
    emit(&event, NULL, NULL, NULL, 0);
}

/* ---- faults ---- */

void lab_reset(void) {
    pthread_mutex_lock(&lock);
    memset(counts, 0, sizeof counts);
    armed = fired = paused = then_class = 0;
    only[0] = 0;
    pthread_mutex_unlock(&lock);
}

/* From now on the nth call of the class (1 = the next) fails. `part`: only calls whose path has it. */
void lab_arm(int class, long nth, int error, int mode, const char *part) {
    pthread_mutex_lock(&lock);
    armed = 1, fired = then_class = 0, armed_class = class, armed_nth = nth, armed_errno = error, armed_mode = mode;
    snprintf(only, sizeof only, "%s", part ? part : "");
    memset(counts, 0, sizeof counts);
    pthread_mutex_unlock(&lock);
}

/* Once the armed call has failed, the nth call of this class from there on fails too. */
void lab_then(int class, long nth, int error) {
    pthread_mutex_lock(&lock);
    then_class = class, then_nth = nth, then_errno = error;
    pthread_mutex_unlock(&lock);
}

/* While paused nothing is counted, and nothing fails. */
void lab_pause(int pause) { paused = pause; }

long lab_count(int class) { return class > 0 && class < CLASSES ? counts[class] : -1; }

int lab_fired(char *path, size_t bytes) {
    pthread_mutex_lock(&lock);
    int result = fired;
    if (path && bytes) snprintf(path, bytes, "%s", fired ? fired_path : "");
    pthread_mutex_unlock(&lock);
    return result;
}

/* 0: go on; -1: do only a part; else the errno to fail with. */
static int fault(int class, const char *path) {
    int verdict = 0;
    pthread_mutex_lock(&lock);
    if (!paused && (!only[0] || strstr(path, only))) {
        long n = ++counts[class];
        if (armed && class == armed_class && (n == armed_nth || (n > armed_nth && armed_mode >= SHORT_THEN_FAIL))) {
            int part = armed_mode == SHORT || (armed_mode == SHORT_THEN_FAIL && n == armed_nth);
            verdict = part ? -1 : armed_errno;
            if (armed_mode == SHORT_THEN_FAIL && n > armed_nth) armed = 0;
            if (!fired++) snprintf(fired_path, sizeof fired_path, "%s", path);
            if (then_class && !part) {
                armed_class = then_class, armed_nth = then_nth, armed_errno = then_errno, armed_mode = FAIL;
                then_class = 0;
                memset(counts, 0, sizeof counts);
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return verdict;
}

static void note_cut(uint64_t ino, int cut) {
    pthread_mutex_lock(&lock);
    int free_slot = -1, at = -1;
    for (int i = 0; i < CUTS; i++) {
        if (cut_inodes[i] == ino) at = i;
        if (!cut_inodes[i]) free_slot = i;
    }
    if (cut && at < 0 && free_slot >= 0) cut_inodes[free_slot] = ino;
    if (!cut && at >= 0) cut_inodes[at] = 0;
    pthread_mutex_unlock(&lock);
}

static int is_cut(uint64_t ino) {
    for (int i = 0; i < CUTS; i++)
        if (cut_inodes[i] == ino) return 1;
    return 0;
}

/* A log file is NAME.logical.wal or NAME.logical.wal.<digits>. */
static int is_log(const char *path) {
    const char *tail = strstr(path, ".logical.wal");
    if (!tail) return 0;
    tail += strlen(".logical.wal");
    if (!*tail) return 1;
    return *tail == '.' && tail[1] && strspn(tail + 1, "0123456789") == strlen(tail + 1);
}

static int lied_about(const char *path, uint64_t ino, int is_dir) {
    if (is_dir) return lie_dir;
    if (lie_cut && is_cut(ino)) return 1;
    if (lie_slots && strstr(path, ".logical.slots.json")) return 1;
    return (lie_log && is_log(path)) || (lie_state && strstr(path, ".logical.wal.state") != NULL);
}
