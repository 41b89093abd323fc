/* A preloaded library that sits between a program and the C library's file calls.
 *
 * For paths under LAB_ROOT it can
 *   record  each call that changes something, with its start and its end, into LAB_RECORD (one total order:
 *           the order of one O_APPEND file), together with notes the program makes through lab_note();
 *   fail    the Nth call of a class, armed and re-armed by the program itself through lab_arm();
 *   lie     report a sync as done without doing it (LAB_LIE = log | dir | state | cut | slots, any number of them).
 * LAB_SYNC_US makes every sync take that long, as a disk does, so that writers gather behind it.
 */
#include "shim.h"

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

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char name[PATH_MAX], name2[PATH_MAX];
    int ours = watched_at(from_dir, from, name), ours2 = watched_at(to_dir, to, name2);
    if (!ours && !ours2) return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    int verdict = fault(LINK, name);
    if (verdict > 0) return errno = verdict, -1;
    uint64_t token = begin(LINK, 0, 0, flags, 0, name, name2, NULL, 0);
    int result = (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    end(LINK, token, 0, result);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

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
