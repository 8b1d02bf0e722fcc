/* Counts the file events of a process and of those that it starts, and kills the whole process group
 * at one of them. Loaded with LD_PRELOAD; KILLS_PAGE names a file that all processes map. An event is
 * counted before it happens; a write that is killed has written half of its bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct page {
  long count, kill_at;
  char last[240];
};
static struct page *page;
static int armed;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("KILLS_PAGE");
  int fd = path ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  armed = page != MAP_FAILED && getenv("KILLS_ARMED") != NULL;
}

void kills_arm(void) { armed = page != NULL; }

static int is_the_one(const char *what, const char *path) {
  if (!armed) return 0;
  if (__atomic_add_fetch(&page->count, 1, __ATOMIC_SEQ_CST) != page->kill_at) return 0;
  snprintf(page->last, sizeof page->last, "%s %s", what, path ? path : "");
  return 1;
}

static void die(void) {
  kill(0, SIGKILL);
  for (;;) pause();
}

static void event(const char *what, const char *path) {
  if (is_the_one(what, path)) die();
}

static int is_file(int fd) {
  struct stat status;
  return armed && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define MODE(flags) va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list)
#define OPEN(name)                                        \
  int name(const char *path, int flags, ...) {            \
    MODE(flags);                                          \
    if (flags & WRITES) event("open", path);              \
    return REAL(name)(path, flags, mode);                 \
  }
#define OPENAT(name)                                      \
  int name(int folder, const char *path, int flags, ...) {\
    MODE(flags);                                          \
    if (flags & WRITES) event("open", path);              \
    return REAL(name)(folder, path, flags, mode);         \
  }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

#define FOPEN(name)                                       \
  FILE *name(const char *path, const char *mode) {        \
    if (mode[0] != 'r' || mode[1] == '+') event("fopen", path); \
    return REAL(name)(path, mode);                        \
  }
FOPEN(fopen) FOPEN(fopen64)

ssize_t write(int fd, const void *bytes, size_t count) {
  if (is_file(fd) && is_the_one("write", NULL)) {
    if (REAL(write)(fd, bytes, count / 2) < 0) perror("write");
    die();
  }
  return REAL(write)(fd, bytes, count);
}

#define PWRITE(name, offset_type)                                               \
  ssize_t name(int fd, const void *bytes, size_t count, offset_type offset) {   \
    if (is_file(fd) && is_the_one("pwrite", NULL)) {                            \
      if (REAL(name)(fd, bytes, count / 2, offset) < 0) perror("pwrite");       \
      die();                                                                    \
    }                                                                           \
    return REAL(name)(fd, bytes, count, offset);                                \
  }
PWRITE(pwrite, off_t) PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (is_file(fd)) event("writev", NULL);
  return REAL(writev)(fd, parts, count);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) {
  if (is_file(out)) event("sendfile", NULL);
  return REAL(sendfile64)(out, in, offset, count);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
  if (is_file(out)) event("sendfile", NULL);
  return REAL(sendfile)(out, in, offset, count);
}
int fsync(int fd) { event("fsync", NULL); return REAL(fsync)(fd); }
int fdatasync(int fd) { event("fdatasync", NULL); return REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t length) { event("ftruncate", NULL); return REAL(ftruncate)(fd, length); }
int ftruncate64(int fd, off64_t length) { event("ftruncate", NULL); return REAL(ftruncate64)(fd, length); }
int flock(int fd, int how) { event("flock", NULL); return REAL(flock)(fd, how); }
int rename(const char *from, const char *to) { event("rename", to); return REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { event("rename", to); return REAL(renameat)(a, from, b, to); }
int link(const char *from, const char *to) { event("link", to); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { event("link", to); return REAL(linkat)(a, from, b, to, flags); }
int symlink(const char *from, const char *to) { event("symlink", to); return REAL(symlink)(from, to); }
int unlink(const char *path) { event("unlink", path); return REAL(unlink)(path); }
int unlinkat(int folder, const char *path, int flags) { event("unlink", path); return REAL(unlinkat)(folder, path, flags); }
int rmdir(const char *path) { event("rmdir", path); return REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { event("mkdir", path); return REAL(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { event("mkdir", path); return REAL(mkdirat)(folder, path, mode); }

#define FCNTL(name)                                                 \
  int name(int fd, int command, ...) {                              \
    va_list list;                                                   \
    va_start(list, command);                                        \
    void *argument = va_arg(list, void *);                          \
    va_end(list);                                                   \
    if (command == F_SETLK || command == F_SETLKW) event("lock", NULL); \
    return REAL(name)(fd, command, argument);                       \
  }
FCNTL(fcntl) FCNTL(fcntl64)
