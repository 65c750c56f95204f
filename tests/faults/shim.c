/* Preloaded into a test's process (LD_PRELOAD): makes one call that changes a file fail, or writes down all of them.

   Only calls on paths that begin with `prefix` count. What fails is the system call itself: the program under test is the real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char prefix[4096];
static long calls, fails_at; /* the fails_at-th call fails; 0: none does */
static int failure, sticky, report = -1, trace = -1;

/* from the nth call on `path` on, or that one only, fail with `error` (0: the process is killed); a line a failure goes to `report_fd` */
void shim_arm(const char *path, long nth, int error, int all_after, int report_fd) {
    snprintf(prefix, sizeof prefix, "%s", path);
    calls = 0, fails_at = nth, failure = error, sticky = all_after, report = report_fd;
}

long shim_calls(void) { return calls; }

void shim_trace(const char *path, int fd) {
    snprintf(prefix, sizeof prefix, "%s", path);
    trace = fd;
}

static ssize_t real_write(int fd, const void *data, size_t n) {
    static ssize_t (*call)(int, const void *, size_t);
    if (!call) call = dlsym(RTLD_NEXT, "write");
    return call(fd, data, n);
}

/* one record: kind, lengths, offset, path, data (little-endian, packed; the reader is power_cut.py) */
void shim_note(char kind, const char *path, int64_t offset, const void *data, uint32_t n) {
    if (trace < 0) return;
    struct { char kind; uint32_t path_n, n; int64_t offset; } __attribute__((packed)) head = {kind, strlen(path), n, offset};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path_n}, {(void *)data, n}};
    if (writev(trace, parts, 3) < 0) _exit(99);
}

static int fails(const char *path, const char *name) {
    if (!*prefix || strncmp(path, prefix, strlen(prefix))) return 0;
    calls++;
    if (!fails_at || calls < fails_at || (calls > fails_at && !sticky)) return 0;
    if (!failure) kill(getpid(), SIGKILL);
    if (report >= 0) {
        char line[4200];
        int n = snprintf(line, sizeof line, "%s %s %s\n", name, failure == ENOSPC ? "ENOSPC" : "EIO", path + strlen(prefix));
        if (real_write(report, line, n) < 0) _exit(99);
    }
    errno = failure;
    return 1;
}

static const char *path_of(int fd) {
    static char path[4096], link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = *prefix ? readlink(link, path, sizeof path - 1) : 0;
    path[n > 0 ? n : 0] = 0;
    return path;
}

static int counts(const char *path) { return *prefix && !strncmp(path, prefix, strlen(prefix)); }

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
    const char *path = path_of(fd);
    if (fails(path, "write")) return -1;
    off_t at = counts(path) ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = real_write(fd, data, n);
    if (done > 0 && counts(path)) shim_note('W', path, at, data, done);
    return done;
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t n, off_t at) { \
        REAL(ssize_t, name, int, const void *, size_t, off_t); \
        const char *path = path_of(fd); \
        if (fails(path, #name)) return -1; \
        ssize_t done = real(fd, data, n, at); \
        if (done > 0 && counts(path)) shim_note('W', path, at, data, done); \
        return done; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        const char *path = path_of(fd); \
        if (fails(path, #name)) return -1; \
        int result = real(fd); \
        if (!result && counts(path)) shim_note('S', path, 0, "", 0); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name) \
    int name(int fd, off_t size) { \
        REAL(int, name, int, off_t); \
        const char *path = path_of(fd); \
        if (fails(path, #name)) return -1; \
        int result = real(fd, size); \
        if (!result && counts(path)) shim_note('T', path, size, "", 0); \
        return result; \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int new = flags & O_CREAT && counts(path) && access(path, F_OK); \
        if (new && fails(path, #name)) return -1; \
        int fd = real(path, flags, mode); \
        if (new && fd >= 0) shim_note('C', path, 0, "", 0); \
        if (fd >= 0 && flags & O_TRUNC && !new && counts(path)) shim_note('T', path, 0, "", 0); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails(path, "mkdir") ? -1 : real(path, mode);
}

int rename(const char *old, const char *new) {
    REAL(int, rename, const char *, const char *);
    return fails(new, "rename") ? -1 : real(old, new);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    int result = real(path);
    if (!result && counts(path)) shim_note('U', path, 0, "", 0);
    return result;
}
