// A disk that loses what was not synced, for a process that is started with it in LD_PRELOAD: what a file has and what
// a folder lists counts from when it is given to fsync or fdatasync, and is copied aside then, to SYNCED_COPY, for all
// below SYNCED_FOLDER. Other ways to sync (O_DSYNC, msync, sync) do not count. One process at a time.
//
// SYNCED_COPY/files/INODE is a file's content, SYNCED_COPY/folders/INODE a folder's entries: "f|d MODE INODE NAME\0".

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 10000

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], copy[PATH_MAX];
static char buffer[1 << 20];

// Inodes that were seen are kept in use, so that no other file gets their number.
static ino_t known[MOST];
static int count;

__attribute__((constructor)) static void begin(void) {
    const char *from = getenv("SYNCED_FOLDER"), *to = getenv("SYNCED_COPY");
    struct rlimit most;
    if (from && to) {
        snprintf(folder, sizeof folder, "%s", from);
        snprintf(copy, sizeof copy, "%s", to);
        if (getrlimit(RLIMIT_NOFILE, &most) == 0) {
            most.rlim_cur = most.rlim_max;
            setrlimit(RLIMIT_NOFILE, &most);
        }
    }
}

// Whether it is below the folder, whatever has become of its name.
static int ours(int descriptor) {
    char link[64], path[PATH_MAX + 16];
    size_t length = strlen(folder);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t found = length ? readlink(link, path, sizeof path - 1) : -1;
    if (found < 0) return 0;
    path[found] = 0;
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

// Look at what a name leads to, and keep it. Neither takes or gives back locks, as O_PATH opens nothing.
static int see(int at, const char *name, int flags, struct stat *status) {
    int descriptor = openat(at, name, O_PATH | O_CLOEXEC | flags);
    if (descriptor < 0) return -1;
    int failed = fstat(descriptor, status), new = 1;
    for (int i = 0; i < count; i++) new = new && known[i] != status->st_ino;
    if (failed || !new)
        close(descriptor);
    else if (count == MOST)
        abort();
    else
        known[count++] = status->st_ino;
    return failed;
}

static int write_all(int target, const char *data, size_t size) {
    while (size) {
        ssize_t written = write(target, data, size);
        if (written < 0) return -1;
        data += written;
        size -= written;
    }
    return 0;
}

static int copy_file(int source, int target) {
    char link[64];
    // The program's own may be open for writing only.
    snprintf(link, sizeof link, "/proc/self/fd/%d", source);
    int again = (fcntl(source, F_GETFL) & O_ACCMODE) == O_WRONLY ? open(link, O_RDONLY | O_CLOEXEC) : source;
    ssize_t read = -1;
    off_t place = 0;
    if (again >= 0)
        while ((read = pread(again, buffer, sizeof buffer, place)) > 0) {
            if (write_all(target, buffer, read) < 0) return -1;
            place += read;
        }
    if (again >= 0 && again != source) close(again);
    return read < 0 ? -1 : 0;
}

static int copy_entries(int source, int target) {
    int again = openat(source, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    if (!entries) return -1;
    int failed = 0;
    struct dirent *entry;
    while (!failed && (entry = readdir(entries))) {
        struct stat status;
        char line[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (see(again, entry->d_name, O_NOFOLLOW, &status) < 0) {
            failed = errno != ENOENT;  // it has just gone
            continue;
        }
        if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) continue;
        int size = snprintf(line, sizeof line, "%c %o %llu %s", S_ISDIR(status.st_mode) ? 'd' : 'f',
                            status.st_mode & 07777, (unsigned long long)status.st_ino, entry->d_name);
        failed = write_all(target, line, size + 1) < 0;
    }
    closedir(entries);
    return failed ? -1 : 0;
}

static int synced(int source) {
    struct stat status;
    char link[64], draft[PATH_MAX + 64], place[PATH_MAX + 64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", source);
    if (see(AT_FDCWD, link, 0, &status) < 0) return -1;
    int listing = S_ISDIR(status.st_mode);
    snprintf(draft, sizeof draft, "%s/draft", copy);
    snprintf(place, sizeof place, "%s/%s/%llu", copy, listing ? "folders" : "files", (unsigned long long)status.st_ino);
    int target = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (target < 0) return -1;
    int failed = listing ? copy_entries(source, target) : copy_file(source, target);
    close(target);
    return failed < 0 ? -1 : rename(draft, place);
}

static int sync_by(const char *name, int descriptor) {
    if (!ours(descriptor)) return ((int (*)(int))dlsym(RTLD_NEXT, name))(descriptor);
    pthread_mutex_lock(&turn);
    int failed = synced(descriptor), why = errno;
    pthread_mutex_unlock(&turn);
    errno = why;
    return failed;
}

int fsync(int descriptor) { return sync_by("fsync", descriptor); }

int fdatasync(int descriptor) { return sync_by("fdatasync", descriptor); }
