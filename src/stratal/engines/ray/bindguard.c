/* Preloaded into Ray's processes: what would listen on every address listens on STRATAL_BIND_ADDRESS alone.

   Ray has no setting for that: gcs_server, raylet and each worker bind the wildcard address whenever the
   node's address is not loopback. Addresses that a program names itself are left as they are. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef int (*binder)(int, const struct sockaddr *, socklen_t);

int bind(int fd, const struct sockaddr *address, socklen_t length) {
  static binder real;
  if (!real) real = (binder)dlsym(RTLD_NEXT, "bind");
  const char *only = getenv("STRATAL_BIND_ADDRESS");
  struct in_addr given;
  if (!address || !only || inet_pton(AF_INET, only, &given) != 1) return real(fd, address, length);

  if (address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
    struct sockaddr_in four;
    memcpy(&four, address, sizeof four);
    if (four.sin_addr.s_addr == htonl(INADDR_ANY)) {
      four.sin_addr = given;
      return real(fd, (struct sockaddr *)&four, sizeof four);
    }
  }
  if (address->sa_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
    struct sockaddr_in6 six;
    memcpy(&six, address, sizeof six);
    if (IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr)) { /* both families at once: the given one, mapped */
      six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
      memcpy(six.sin6_addr.s6_addr + 12, &given, sizeof given);
      return real(fd, (struct sockaddr *)&six, sizeof six);
    }
  }
  return real(fd, address, length);
}
