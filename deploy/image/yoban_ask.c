/*
 * yoban-ask SOCKET VERB [ARG...]
 *
 * Asks the agent over its unix socket: sends one line of VERB and ARGs separated by tabs, reads one line back.
 * Exit code: 0 for `ok`, 1 for `missing` (a definite "there is no such thing"), 255 for everything else: `error ...`,
 * no agent, no answer, a broken line, five minutes gone. An archive or restore command must never take a fault for a
 * "no", so 1 is given for that one word only. The message of a failure goes to standard error.
 *
 * Linked statically: it runs in any image, in a few milliseconds.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEADLINE 300 /* seconds for all of it */
#define FAULT 255

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "yoban-ask: %s%s%s\n", what, *detail ? ": " : "", detail);
    exit(FAULT);
}

static void out_of_time(int number) {
    static const char text[] = "yoban-ask: the agent did not answer in time\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)number;
    (void)ignored;
    _exit(FAULT);
}

/* One line of the words from `words` on; a tab or newline inside a word could change the meaning and is refused. */
static size_t compose(char *line, size_t size, char **words) {
    size_t used = 0;
    for (char **word = words; *word; word++) {
        size_t length = strlen(*word);
        if (strpbrk(*word, "\t\n")) fail("an argument holds a tab or newline", "");
        if (used + length + 1 > size) fail("the arguments are too long", "");
        memcpy(line + used, *word, length);
        used += length;
        line[used++] = word[1] ? '\t' : '\n';
    }
    return used;
}

static int open_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("no socket", strerror(errno));
    if (strlen(path) >= sizeof address.sun_path) fail("the socket's path is too long", path);
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("the agent is not there", strerror(errno));
    return fd;
}

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) fail("the question could not be sent", strerror(errno));
        data += sent;
        size -= (size_t)sent;
    }
}

/* Reads up to the newline, which becomes the string's end; an answer without one is no answer. */
static void read_line(int fd, char *line, size_t size) {
    size_t used = 0;
    for (;;) {
        ssize_t got = read(fd, line + used, size - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("the answer could not be read", strerror(errno));
        if (got == 0) fail("the agent went away without an answer", "");
        char *end = memchr(line + used, '\n', (size_t)got);
        used += (size_t)got;
        if (end) {
            *end = '\0';
            return;
        }
        if (used == size) fail("the answer is too long", "");
    }
}

int main(int count, char **words) {
    static char line[65536];
    if (count < 3) fail("usage: yoban-ask SOCKET VERB [ARG...]", "");
    signal(SIGALRM, out_of_time);
    alarm(DEADLINE);
    size_t size = compose(line, sizeof line, words + 2);
    int fd = open_socket(words[1]);
    send_all(fd, line, size);
    read_line(fd, line, sizeof line);
    if (strcmp(line, "ok") == 0) return 0;
    if (strcmp(line, "missing") == 0) {
        fprintf(stderr, "yoban-ask: missing\n");
        return 1;
    }
    fail(line, "");
}
