/* A preloaded library that sits between a program and the C library's file calls.
 *
 * For paths under LAB_ROOT it can
 *   record  each call that changes something, with its start and its end, into LAB_RECORD (one total order:
 *           the order of one O_APPEND file), together with notes the program makes through lab_note();
 *   fail    the Nth call of a class, armed and re-armed by the program itself through lab_arm();
 *   lie     report a sync as done without doing it (LAB_LIE = log | dir | state | cut, and any number of them).
 * LAB_SYNC_US makes every sync take that long, as a disk does, so that writers gather behind it.
 * The layout of an event is that of tests/lab/record.py.
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
enum { OPEN = 1, READ, WRITE, SYNC, TRUNCATE, ALLOCATE, RENAME, UNLINK, MKDIR, CLASSES };
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
static int lie_log, lie_dir, lie_state, lie_cut;
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
    return (lie_log && is_log(path)) || (lie_state && strstr(path, ".logical.wal.state") != NULL);
}

/* ---- the calls ---- */

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    if (!watched_at(dirfd, path, name)) return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    int verdict = fault(OPEN, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t token = begin(OPEN, 0, 0, flags, mode, name, NULL, NULL, 0);
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    end(OPEN, token, fd < 0 ? 0 : inode_of(fd, NULL), fd);
    return fd;
}

#define OPEN_MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, last); mode = va_arg(args, mode_t); va_end(args); }
int open(const char *path, int flags, ...) { OPEN_MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { OPEN_MODE(flags, flags) return do_open(fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { OPEN_MODE(flags, flags) return do_open(fd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static size_t shorten(const struct iovec *iov, int parts, struct iovec *out, int *out_parts) {
    size_t total = 0, half;
    for (int i = 0; i < parts; i++) total += iov[i].iov_len;
    half = total > 1 ? total / 2 : total;
    *out_parts = 0;
    for (size_t left = half; left; (*out_parts)++) {
        out[*out_parts] = iov[*out_parts];
        if (out[*out_parts].iov_len > left) out[*out_parts].iov_len = left;
        left -= out[*out_parts].iov_len;
    }
    return half;
}

static ssize_t do_write(int fd, const struct iovec *iov, int parts, int64_t at, int flags) {
    char name[PATH_MAX];
    struct iovec part[parts > 0 ? parts : 1];
    if (watched_fd(fd, name)) {
        int verdict = fault(WRITE, name);
        if (verdict > 0) return errno = verdict, -1;
        if (verdict < 0) shorten(iov, parts, part, &parts), iov = part;
        int64_t offset = at;
        if (at < 0) {
            struct stat st;
            int append = (int)syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
            offset = append && !fstat(fd, &st) ? st.st_size : lseek(fd, 0, SEEK_CUR);
        }
        uint64_t ino = inode_of(fd, NULL), token = begin(WRITE, 0, ino, offset, 0, name, NULL, iov, parts);
        ssize_t n = at < 0 ? syscall(SYS_writev, fd, iov, parts) : syscall(SYS_pwritev2, fd, iov, parts, at, 0L, flags);
        note_cut(ino, 0);
        end(WRITE, token, ino, n);
        return n;
    }
    return at < 0 ? syscall(SYS_writev, fd, iov, parts) : syscall(SYS_pwritev2, fd, iov, parts, at, 0L, flags);
}

#define ONE(data, n) (&(struct iovec){(void *)(data), (n)})
ssize_t write(int fd, const void *data, size_t n) {
    char name[PATH_MAX];
    if (!watched_fd(fd, name)) return syscall(SYS_write, fd, data, n);
    return do_write(fd, ONE(data, n), 1, -1, 0);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return do_write(fd, ONE(data, n), 1, at, 0); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return do_write(fd, ONE(data, n), 1, at, 0); }
ssize_t writev(int fd, const struct iovec *iov, int parts) { return do_write(fd, iov, parts, -1, 0); }
ssize_t pwritev(int fd, const struct iovec *iov, int parts, off_t at) { return do_write(fd, iov, parts, at, 0); }
ssize_t pwritev64(int fd, const struct iovec *iov, int parts, off64_t at) { return do_write(fd, iov, parts, at, 0); }
ssize_t pwritev2(int fd, const struct iovec *iov, int parts, off_t at, int f) { return do_write(fd, iov, parts, at, f); }
ssize_t pwritev64v2(int fd, const struct iovec *iov, int parts, off64_t at, int f) {
    return do_write(fd, iov, parts, at, f);
}

static ssize_t do_read(int fd, const struct iovec *iov, int parts, int64_t at) {
    char name[PATH_MAX];
    struct iovec part[parts > 0 ? parts : 1];
    if (watched_fd(fd, name)) {
        int verdict = fault(READ, name);
        if (verdict > 0) return errno = verdict, -1;
        if (verdict < 0) shorten(iov, parts, part, &parts), iov = part;
    }
    return at < 0 ? syscall(SYS_readv, fd, iov, parts) : syscall(SYS_preadv, fd, iov, parts, at, 0L);
}
ssize_t read(int fd, void *data, size_t n) {
    char name[PATH_MAX];
    if (!watched_fd(fd, name)) return syscall(SYS_read, fd, data, n);
    return do_read(fd, ONE(data, n), 1, -1);
}
ssize_t pread(int fd, void *data, size_t n, off_t at) { return do_read(fd, ONE(data, n), 1, at); }
ssize_t pread64(int fd, void *data, size_t n, off64_t at) { return do_read(fd, ONE(data, n), 1, at); }
ssize_t readv(int fd, const struct iovec *iov, int parts) { return do_read(fd, iov, parts, -1); }
ssize_t preadv(int fd, const struct iovec *iov, int parts, off_t at) { return do_read(fd, iov, parts, at); }
ssize_t preadv64(int fd, const struct iovec *iov, int parts, off64_t at) { return do_read(fd, iov, parts, at); }

static int do_sync(int fd, int data_only) {
    char name[PATH_MAX];
    long number = data_only ? SYS_fdatasync : SYS_fsync;
    if (!watched_fd(fd, name)) return (int)syscall(number, fd);
    int is_dir, verdict = fault(SYNC, name), lied;
    uint64_t ino = inode_of(fd, &is_dir);
    pthread_mutex_lock(&lock);
    lied = lied_about(name, ino, is_dir);
    pthread_mutex_unlock(&lock);
    uint64_t token =
        begin(SYNC, (lied ? LIED : 0) | (data_only ? DATA_ONLY : 0) | (is_dir ? IS_DIR : 0), ino, 0, 0, name, NULL, NULL, 0);
    if (sync_us) nanosleep(&(struct timespec){sync_us / 1000000, sync_us % 1000000 * 1000}, NULL);
    int result = verdict > 0 ? (errno = verdict, -1) : lied ? 0 : (int)syscall(number, fd);
    if (!result) note_cut(ino, 0);
    end(SYNC, token, ino, result);
    return result;
}
int fsync(int fd) { return do_sync(fd, 0); }
int fdatasync(int fd) { return do_sync(fd, 1); }
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, at, n, flags); /* promises nothing, so it is not recorded */
}

static int do_truncate(int fd, int64_t size) {
    char name[PATH_MAX];
    if (!watched_fd(fd, name)) return (int)syscall(SYS_ftruncate, fd, size);
    int verdict = fault(TRUNCATE, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t ino = inode_of(fd, NULL), token = begin(TRUNCATE, 0, ino, size, 0, name, NULL, NULL, 0);
    int result = (int)syscall(SYS_ftruncate, fd, size);
    note_cut(ino, 1);
    end(TRUNCATE, token, ino, result);
    return result;
}
int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return do_truncate(fd, size); }
int truncate(const char *path, off_t size) {
    int fd = do_open(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = do_truncate(fd, size);
    close(fd);
    return result;
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }

static int do_allocate(int fd, int mode, int64_t at, int64_t n) {
    char name[PATH_MAX];
    if (!watched_fd(fd, name)) return (int)syscall(SYS_fallocate, fd, mode, at, n);
    int verdict = fault(ALLOCATE, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t ino = inode_of(fd, NULL), token = begin(ALLOCATE, mode, ino, at, n, name, NULL, NULL, 0);
    int result = (int)syscall(SYS_fallocate, fd, mode, at, n);
    end(ALLOCATE, token, ino, result);
    return result;
}
int fallocate(int fd, int mode, off_t at, off_t n) { return do_allocate(fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return do_allocate(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { return do_allocate(fd, 0, at, n) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t n) { return do_allocate(fd, 0, at, n) ? errno : 0; }

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char name[PATH_MAX], name2[PATH_MAX];
    int ours = watched_at(from_dir, from, name), ours2 = watched_at(to_dir, to, name2);
    if (!ours && !ours2) return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    int verdict = fault(RENAME, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t token = begin(RENAME, 0, 0, flags, 0, name, name2, NULL, 0);
    int result = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    end(RENAME, token, 0, result);
    return result;
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return renameat2(from_dir, from, to_dir, to, 0);
}

int unlinkat(int dirfd, const char *path, int flags) {
    char name[PATH_MAX];
    if (!watched_at(dirfd, path, name)) return (int)syscall(SYS_unlinkat, dirfd, path, flags);
    int verdict = fault(UNLINK, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t token = begin(UNLINK, 0, 0, flags, 0, name, NULL, NULL, 0);
    int result = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    end(UNLINK, token, 0, result);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char name[PATH_MAX];
    if (!watched_at(dirfd, path, name)) return (int)syscall(SYS_mkdirat, dirfd, path, mode);
    uint64_t token = begin(MKDIR, 0, 0, mode, 0, name, NULL, NULL, 0);
    int result = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    end(MKDIR, token, 0, result);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* Copies inside the kernel would bypass the record: refused, so that callers fall back to read and write. */
static ssize_t refuse_copy(int fd) {
    char name[PATH_MAX];
    return watched_fd(fd, name) ? (errno = EINVAL, 1) : 0;
}
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags) {
    return refuse_copy(out) ? -1 : syscall(SYS_copy_file_range, in, in_at, out, out_at, n, flags);
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) {
    return refuse_copy(out) ? -1 : syscall(SYS_sendfile, out, in, at, n);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    return refuse_copy(out) ? -1 : syscall(SYS_sendfile, out, in, at, n);
}
