//! The text of `--help`.

pub(super) const TEXT: &str = "\
ringlet ipvsadm: administers a running Ringlet load balancer, in the syntax of ipvsadm.

Usage:
  ringlet ipvsadm -A|-E SERVICE [-s SCHEDULER]             add or edit a virtual service
  ringlet ipvsadm -D SERVICE                               delete one, with its servers
  ringlet ipvsadm -a|-e SERVICE -r SERVER [-m|-g|-i] [-w N] add or edit a real server
  ringlet ipvsadm -d SERVICE -r SERVER                     delete one
  ringlet ipvsadm -L [SERVICE] [LISTING OPTIONS]           list (also without any words)
  ringlet ipvsadm -Z [SERVICE]                             zero counters
  ringlet ipvsadm -C                                       delete everything
  ringlet ipvsadm -S | -R                                  save rules to stdout, restore them from stdin
  ringlet ipvsadm --set TCP TCPFIN UDP                     timeouts in seconds; 0 leaves one as it is

Try it while `ringlet` runs in another terminal:
  ringlet ipvsadm -L                                       what there is
  ringlet ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11 -m -w 0 drain a server: it gets no new connections
  ringlet ipvsadm -E -t 10.0.0.100:80 -s rr                another scheduler
  ringlet ipvsadm -L --stats                               what went where
  ringlet ipvsadm -S > rules; ringlet ipvsadm -C; ringlet ipvsadm -R < rules

SERVICE (addresses and ports are numbers; IPv6 in brackets):
  -t, --tcp-service ADDRESS:PORT      a TCP service
  -u, --udp-service ADDRESS:PORT      a UDP service
  -f, --fwmark-service MARK [-6]      what `ringlet mark' gives this mark; -6 for IPv6
SERVER:
  -r, --real-server ADDRESS[:PORT]    the service's port if none is given

Options of a service (what is not given has its default, with -E too):
  -s, --scheduler NAME                rr, wrr, lc, wlc (default), lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos
  -b, --sched-flags FLAGS             of sh and mh, with commas: sh-fallback, sh-port, mh-fallback, mh-port
  -p, --persistent [SECONDS]          a client stays with its server (default 360 seconds); port 0 is every port then
  -M, --netmask MASK                  clients with the same network count as one; for IPv6 a prefix length
      --pe sip                        not only a client, but a client's call (SIP's Call-ID) stays with its server
  -o, --ops                           every datagram of UDP is scheduled alone
Options of a server:
  -m, --masquerading                  NAT: the server's replies must come back through the balancer
  -g, --gatewaying                    direct routing (default): the server has the service's address itself
  -i, --ipip                          a tunnel: packets go to the server as they came, inside of others; it answers the client itself
      --tun-type ipip|gue|gre         what they are inside of (default ipip)
      --tun-port PORT                 the UDP port of gue, which needs one
      --tun-csum, --tun-nocsum        with (of gue and gre) or without (default) a checksum of the tunnel's own
      --tun-remcsum                   remote checksum offload, of gue
  -w, --weight N                      its share of connections (default 1); 0 drains it
  -x, --u-threshold N                 no new connections above so many
  -y, --l-threshold N                 and again below so many
Options of a listing:
  -c, --connection                    the connections (of SERVICE), with their states and the time they have left
      --stats                         connections, packets and bytes so far
      --rate                          the same a second
      --exact                         numbers in full, instead of K, M, G
      --thresholds                    the limits of -x and -y
      --persistent-conn, --tun-info   other columns
      --timeout                       the timeouts of --set
      --nosort                        in the balancer's own order: newest server first
  -n, --numeric                       no effect: nothing is looked up anyway
      --json                          all of it as one JSON object

Synchronization of connections (docs/sync.md):
      --start-daemon master|backup    tells others of connections, or hears of theirs; both may run
      --stop-daemon master|backup
      --syncid N                      0 to 255: who belongs together; a backup with 0 hears all
      --mcast-interface eth0          the only one there is
      --mcast-group ADDRESS           of IPv4 or IPv6 (default 224.0.0.81)
      --mcast-port N, --mcast-ttl N   (default 8848 and 1)
      --sync-maxlen N                 bytes of a message
  -L  --daemon                        which run; with --json also what they have counted

Everywhere:
      --connect HOST[:PORT]           where the balancer is (default 127.0.0.1:9101)
  -h, --help                          this text

Rules (-R, and `ringlet --rules FILE`) are one command a line, as -S writes them; # begins a comment. There are lines of
`ringlet sysctl' and `ringlet mark' among them, without `ringlet', which ipvsadm does not read:
  sysctl net.ipv4.vs.sloppy_tcp=1
  mark add 7 -p tcp -d 10.0.0.200 --dport 80
-R changes nothing if a line cannot be read. A rule that is refused does not stop the others.

The rest of ipvsadm's syntax is read too.

Exit code: 0; 1 no such service to list; 2 wrong usage, or no balancer reached; 255 refused by the balancer.
";
