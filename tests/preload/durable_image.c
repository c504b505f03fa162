/* Keeps an image of what a directory would contain after a power loss.

   Loaded into a process before its C library (LD_PRELOAD). After every fsync and fdatasync of a file
   or directory below WATCHED, it copies what has just become durable to IMAGE: the content of a file
   as IMAGE/<inode>, the entries of a directory as IMAGE/<inode>.entries, with one line per entry:
   inode, d or f, name. The image does not contain what was written but not synced. The process itself
   is not affected.

   With FORGETS=<suffix>, syncing files with that suffix does nothing, as in a program that does not
   sync them. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int ends_with(const char *text, const char *suffix)
{
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

static void keep_file(int from, FILE *to)
{
    char buffer[65536];
    off_t at = 0;
    ssize_t count;
    while ((count = pread(from, buffer, sizeof buffer, at)) > 0) {
        fwrite(buffer, 1, (size_t)count, to);
        at += count;
    }
}

static void keep_entries(const char *path, FILE *to)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    if (!directory)
        return;
    while ((entry = readdir(directory)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            fprintf(to, "%llu %c %s\n", (unsigned long long)entry->d_ino,
                    entry->d_type == DT_DIR ? 'd' : 'f', entry->d_name);
    closedir(directory);
}

static void keep(int descriptor)
{
    const char *watched = getenv("WATCHED"), *image = getenv("IMAGE"), *forgets = getenv("FORGETS");
    char link[4200], path[4096], kept[4200], partial[4300];
    struct stat status;
    ssize_t length;
    FILE *file;
    int lock;
    if (!watched || !image || fstat(descriptor, &status))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, watched, strlen(watched)) || (forgets && ends_with(path, forgets)))
        return;
    snprintf(kept, sizeof kept, "%s/%llu%s", image, (unsigned long long)status.st_ino,
             S_ISDIR(status.st_mode) ? ".entries" : "");
    snprintf(partial, sizeof partial, "%s.%d.partial", kept, (int)gettid());
    snprintf(link, sizeof link, "%s/lock", image);
    lock = open(link, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    flock(lock, LOCK_EX); /* or an older state might replace a newer one; ends with the process */
    file = fopen(partial, "w");
    if (!file)
        return;
    if (S_ISDIR(status.st_mode)) {
        keep_entries(path, file);
    } else {
        /* what may only be written can't be read through the same descriptor */
        int readable = open(path, O_RDONLY);
        keep_file(readable < 0 ? descriptor : readable, file);
        if (readable >= 0)
            close(readable);
    }
    fclose(file);
    rename(partial, kept); /* all or nothing, however the process ends */
    close(lock);
}

static int sync_with(const char *name, int descriptor)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(descriptor);
    if (result == 0)
        keep(descriptor);
    return result;
}

int fsync(int descriptor) { return sync_with("fsync", descriptor); }
int fdatasync(int descriptor) { return sync_with("fdatasync", descriptor); }
