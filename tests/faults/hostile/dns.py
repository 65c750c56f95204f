# tries: to look a name up, and to send a datagram
# verdict: failed
# prints: refused
import socket


def double(x):
    try:
        print("ESCAPED", socket.getaddrinfo("example.com", 443))
    except OSError as error:
        print("refused:", error)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"x", ("8.8.8.8", 53))
            print("ESCAPED")
    except OSError as error:
        print("refused:", error)
