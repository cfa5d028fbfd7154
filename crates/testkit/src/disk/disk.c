/* A disk that fails when it is told to, for a process that is started with this library in LD_PRELOAD. disk.rs says what for.
 *
 * Watched are the files under the folder that TEST_DISK_FOLDER names, without the index that all connections to a store share
 * (`-shm`), which is never written out. What of them is not on the disk is kept account of: a write is not before a sync of its
 * file succeeds, nor is the name of a new file before a sync of its folder. A sync that fails leaves what it was for as lost:
 * later ones do not bring it back, unless it is written again.
 *
 * TEST_DISK_PLAN names a file of five numbers. Writes, cuts and syncs of watched files are counted from 1:
 *
 *   the one at which the power goes (0: never)
 *   the first one that fails (0: none), how many fail from there, with which error, and whether half of a write is made first
 *
 * and a sixth that is 1 if syncs do nothing, though they say they did. When the power goes, what has to be known to undo what is
 * not on the disk is written to the file that TEST_DISK_LEFT names, and the process is killed: one record for each file,
 *
 *   u32 length of the path, the path, i64 size on the disk (-1: the name is not there), u32 number of pieces,
 *   and for each piece i64 offset, u32 length, and what is on the disk there.
 *
 * The file that TEST_DISK_COUNT names counts for the tester, in two numbers of eight bytes: what was done since the process was
 * started, and what has failed at all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR 512
#define BUCKETS 4096
#define FILES 64

struct sector {
    struct sector *next;
    int64_t number;
    int lost; /* a sync of it failed, and it was not written since */
    int length;
    unsigned char was[SECTOR];
};

struct file {
    dev_t device;
    ino_t inode;
    int in_use, watched, named;
    int64_t size; /* on the disk */
    char path[512];
    struct sector *sectors[BUCKETS];
};

static struct file files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long long cut_at, fail_at, fail_count, fail_error, fail_half, lie, count;
static volatile int64_t *counter;
static const char *folder, *left;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    folder = getenv("TEST_DISK_FOLDER");
    left = getenv("TEST_DISK_LEFT");
    const char *plan = getenv("TEST_DISK_PLAN"), *counts = getenv("TEST_DISK_COUNT");
    if (!folder || !left || !plan || !counts) abort();
    FILE *stream = fopen(plan, "r");
    if (!stream || fscanf(stream, "%lld %lld %lld %lld %lld %lld", &cut_at, &fail_at, &fail_count, &fail_error, &fail_half, &lie) != 6) abort();
    fclose(stream);
    int shared = real_open(counts, O_RDWR);
    counter = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    if (shared < 0 || counter == MAP_FAILED) abort();
    close(shared);
}

static int is_watched(const char *path) {
    size_t length = strlen(path), prefix = strlen(folder);
    if (strncmp(path, folder, prefix) != 0 || path[prefix] != '/') return 0;
    return length < 4 || strcmp(path + length - 4, "-shm") != 0;
}

static void forget(struct file *file) {
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        struct sector *next, *sector = file->sectors[bucket];
        for (; sector; sector = next) {
            next = sector->next;
            free(sector);
        }
        file->sectors[bucket] = NULL;
    }
    file->in_use = 0;
}

static struct file *known(const struct stat *about) {
    for (int number = 0; number < FILES; number++) {
        struct file *file = &files[number];
        if (file->in_use && file->device == about->st_dev && file->inode == about->st_ino) return file;
    }
    return NULL;
}

/* The file, if it is watched. One that is seen for the first time is on the disk as it is, name and all. */
static struct file *watched(int fd) {
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return NULL;
    struct file *file = known(&about);
    if (file) return file->watched ? file : NULL;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    for (int number = 0; number < FILES; number++) {
        file = &files[number];
        if (file->in_use) continue;
        ssize_t length = readlink(link, file->path, sizeof file->path - 1);
        if (length < 0) return NULL;
        file->path[length] = 0;
        file->in_use = file->named = 1;
        file->device = about.st_dev;
        file->inode = about.st_ino;
        file->size = about.st_size;
        file->watched = is_watched(file->path);
        return file->watched ? file : NULL;
    }
    abort();
}

static struct sector *saved(struct file *file, int64_t number) {
    struct sector *sector = file->sectors[number % BUCKETS];
    while (sector && sector->number != number) sector = sector->next;
    return sector;
}

/* Remembers what is on the disk where it will be written. */
static void save(int fd, struct file *file, int64_t from, int64_t to) {
    for (int64_t number = from / SECTOR; number * SECTOR < to; number++) {
        struct sector *sector = saved(file, number);
        if (sector) {
            sector->lost = 0;
            continue;
        }
        int64_t at = number * SECTOR;
        sector = calloc(1, sizeof *sector);
        if (!sector) abort();
        sector->number = number;
        if (at < file->size) {
            ssize_t length = pread(fd, sector->was, SECTOR, at);
            if (length < 0) abort();
            sector->length = at + length > file->size ? (int)(file->size - at) : (int)length;
        }
        sector->next = file->sectors[number % BUCKETS];
        file->sectors[number % BUCKETS] = sector;
    }
}

static void is_on_disk(int fd, struct file *file) {
    struct stat about;
    if (fstat(fd, &about) != 0) abort();
    file->size = about.st_size;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        struct sector **place = &file->sectors[bucket];
        while (*place) {
            struct sector *sector = *place;
            if (sector->lost) {
                place = &sector->next;
                continue;
            }
            *place = sector->next;
            free(sector);
        }
    }
}

static void is_lost(struct file *file) {
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct sector *sector = file->sectors[bucket]; sector; sector = sector->next) sector->lost = 1;
}

static void put(FILE *stream, const void *bytes, size_t length) {
    if (length && fwrite(bytes, length, 1, stream) != 1) abort();
}

static void cut(void) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, left, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    FILE *stream = fdopen(fd, "w");
    if (!stream) abort();
    for (int number = 0; number < FILES; number++) {
        struct file *file = &files[number];
        if (!file->in_use || !file->watched) continue;
        uint32_t length = (uint32_t)strlen(file->path), pieces = 0;
        for (int bucket = 0; bucket < BUCKETS; bucket++)
            for (struct sector *sector = file->sectors[bucket]; sector; sector = sector->next) pieces++;
        int64_t size = file->named ? file->size : -1;
        put(stream, &length, 4);
        put(stream, file->path, length);
        put(stream, &size, 8);
        put(stream, &pieces, 4);
        for (int bucket = 0; bucket < BUCKETS; bucket++)
            for (struct sector *sector = file->sectors[bucket]; sector; sector = sector->next) {
                int64_t offset = sector->number * SECTOR;
                uint32_t has = (uint32_t)sector->length;
                put(stream, &offset, 8);
                put(stream, &has, 4);
                put(stream, sector->was, has);
            }
    }
    fclose(stream);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts what is about to be done; whether it fails. */
static int fails(void) {
    counter[0] = ++count;
    if (count == cut_at) cut();
    if (!fail_at || count < fail_at || count >= fail_at + fail_count) return 0;
    counter[1]++;
    return 1;
}

static ssize_t write_at(int fd, struct file *file, const void *bytes, size_t length, off_t offset) {
    size_t most = length;
    if (fails()) {
        most = fail_half ? length / 2 : 0;
        if (!most) {
            errno = (int)fail_error;
            return -1;
        }
    }
    save(fd, file, offset, offset + (int64_t)most);
    return real_pwrite(fd, bytes, most, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    pthread_mutex_lock(&lock);
    struct file *file = watched(fd);
    ssize_t done = file ? write_at(fd, file, bytes, length, offset) : real_pwrite(fd, bytes, length, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

ssize_t write(int fd, const void *bytes, size_t length) {
    pthread_mutex_lock(&lock);
    struct file *file = watched(fd);
    if (!file) {
        /* It may be a pipe that is full. */
        pthread_mutex_unlock(&lock);
        return real_write(fd, bytes, length);
    }
    off_t offset = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = write_at(fd, file, bytes, length, offset);
    if (done > 0) lseek(fd, offset + done, SEEK_SET);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off_t length) {
    pthread_mutex_lock(&lock);
    struct file *file = watched(fd);
    int result = -1;
    if (file && fails()) {
        errno = (int)fail_error;
    } else {
        struct stat about;
        if (file && fstat(fd, &about) == 0 && length < about.st_size) save(fd, file, length, about.st_size);
        result = real_ftruncate(fd, length);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* The names of all files of a folder are on the disk. */
static int sync_folder(int fd) {
    struct stat about;
    char link[64], path[512];
    if (fstat(fd, &about) != 0 || !S_ISDIR(about.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    for (int number = 0; number < FILES; number++) {
        struct file *file = &files[number];
        if (file->in_use && strncmp(file->path, path, (size_t)length) == 0 && strrchr(file->path, '/') == file->path + length)
            file->named = file->named || !lie;
    }
    return 1;
}

static int sync_with(int fd, int (*real)(int)) {
    pthread_mutex_lock(&lock);
    struct file *file = watched(fd);
    int result;
    if (!file) {
        result = real(fd);
        if (result == 0) sync_folder(fd);
    } else if (fails()) {
        is_lost(file);
        errno = (int)fail_error;
        result = -1;
    } else {
        /* Nothing here outlives the machine; what counts as on the disk is known. */
        result = 0;
        if (!lie) is_on_disk(fd, file);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_with(fd, real_fsync); }

int fdatasync(int fd) { return sync_with(fd, real_fdatasync); }

/* A file that is made has no name on the disk yet. */
static int opened(int fd, int is_new) {
    if (fd < 0 || !is_new) return fd;
    pthread_mutex_lock(&lock);
    struct stat about;
    struct file *before = fstat(fd, &about) == 0 ? known(&about) : NULL;
    if (before) forget(before);
    struct file *file = watched(fd);
    if (file) file->named = 0;
    pthread_mutex_unlock(&lock);
    return fd;
}

static int is_new(int folder_fd, const char *path, int flags) {
    struct stat about;
    return (flags & O_CREAT) && fstatat(folder_fd, path, &about, 0) != 0;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int new = is_new(AT_FDCWD, path, flags);
    return opened(real_open(path, flags, mode), new);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open64(path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int new = is_new(at, path, flags);
    return opened(real_openat(at, path, flags, mode), new);
}

int openat(int at, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat64(at, path, flags, mode);
}

/* What is removed is removed for good. */
int unlink(const char *path) {
    struct stat about;
    pthread_mutex_lock(&lock);
    struct file *file = stat(path, &about) == 0 ? known(&about) : NULL;
    int result = real_unlink(path);
    if (result == 0 && file) forget(file);
    pthread_mutex_unlock(&lock);
    return result;
}
