//! nftables: destination NAT in the kernel, and counting.

use anyhow::Context;
use serde_json::Value;

use crate::bench::net::Namespace;

/// Balances `service` (`10.2.0.100:80`, TCP and UDP) over servers that all have one port, in turn, by destination NAT.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) if nft is not installed; or if the kernel does not take the rules.
pub fn balance(
    namespace: &Namespace,
    service: &std::net::SocketAddrV4,
    servers: &[std::net::SocketAddrV4],
) -> anyhow::Result<()> {
    namespace.tool("nft", "-f -", &rules(service, servers)).map(drop)
}

fn rules(service: &std::net::SocketAddrV4, servers: &[std::net::SocketAddrV4]) -> String {
    let (address, port) = (service.ip(), service.port());
    let to = match servers {
        [one] => one.to_string(),
        several => {
            let list: Vec<_> = several
                .iter()
                .enumerate()
                .map(|(nth, server)| format!("{nth} : {} . {}", server.ip(), server.port()))
                .collect();
            format!("numgen inc mod {} map {{ {} }}", several.len(), list.join(", "))
        }
    };
    let rule = |protocol| format!("ip daddr {address} {protocol} dport {port} dnat ip to {to}");
    format!(
        "table ip bench {{ chain balance {{ type nat hook prerouting priority dstnat; policy accept; {}; {}; }}; }}\n",
        rule("tcp"),
        rule("udp")
    )
}

/// Counts and drops the frames that come in by an interface for a UDP port, before anything else is done with them.
///
/// # Errors
/// As [`balance`].
pub fn count(namespace: &Namespace, interface: &str, port: u16) -> anyhow::Result<()> {
    let rules = format!(
        "table netdev bench {{ chain count {{ type filter hook ingress device {interface} priority 0; \
         udp dport {port} counter drop; }}; }}\n"
    );
    namespace.tool("nft", "-f -", &rules).map(drop)
}

/// What [`count`] has counted.
///
/// # Errors
/// If nft does not say.
pub fn counted(namespace: &Namespace) -> anyhow::Result<u64> {
    let said = namespace.tool("nft", "-j list table netdev bench", "")?;
    packets(&said).with_context(|| format!("nft says: {said}"))
}

/// The first counter in nft's JSON.
fn packets(said: &str) -> Option<u64> {
    let said: Value = serde_json::from_str(said).ok()?;
    let rules = said["nftables"].as_array()?.iter().filter_map(|item| item["rule"]["expr"].as_array());
    rules.flatten().find_map(|expression| expression["counter"]["packets"].as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_counters() {
        let servers = ["10.1.0.11:8080", "10.1.0.12:8080"].map(|server| server.parse().unwrap());
        let service = "10.2.0.100:80".parse().unwrap();
        assert!(rules(&service, &servers[..1]).contains("ip daddr 10.2.0.100 udp dport 80 dnat ip to 10.1.0.11:8080;"));
        let several = "tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.1.0.11 . 8080, 1 : 10.1.0.12 . 8080 };";
        assert!(rules(&service, &servers).contains(several));
        let said = r#"{"nftables": [{"metainfo": {}}, {"rule": {"expr": [{"match": {}}, {"counter": {"packets": 17, "bytes": 5}}]}}]}"#;
        assert_eq!(packets(said), Some(17));
        assert_eq!(packets("{}"), None);
    }
}
