//! Reads the head of an HTTP/1.x request (RFC 9112): as much as a page without forms needs.

/// The most bytes a request's head may have.
pub(crate) const LONGEST_HEAD: usize = 4096;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// HEAD instead of GET: no body is wanted.
    pub head_only: bool,
    /// The path, without query.
    pub path: &'a str,
}

/// What is wrong with a request: the status it is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// 400: not HTTP.
    Request,
    /// 405: neither GET nor HEAD.
    Method,
    /// 431: the head is longer than [`LONGEST_HEAD`].
    TooLarge,
    /// 505: not HTTP/1.x.
    Version,
}

/// Parses what has come so far; `None` while the head is not complete.
pub(crate) fn parse(bytes: &[u8]) -> Option<Result<Request<'_>, Bad>> {
    // An empty line before the request is to be ignored (section 2.2).
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let Some(end) = end_of_head(bytes) else {
        return (bytes.len() >= LONGEST_HEAD).then_some(Err(Bad::TooLarge));
    };
    Some(parse_head(&bytes[..end]))
}

/// Where the empty line begins that ends the head.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte == b'\n' {
            if matches!(&bytes[line..i], b"" | b"\r") {
                return Some(line);
            }
            line = i + 1;
        }
    }
    None
}

fn parse_head(head: &[u8]) -> Result<Request<'_>, Bad> {
    let head = core::str::from_utf8(head).map_err(|_| Bad::Request)?;
    if head.bytes().any(|b| b.is_ascii_control() && !matches!(b, b'\r' | b'\n' | b'\t')) {
        return Err(Bad::Request);
    }
    let mut lines = head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Bad::Request);
    };
    let minor = version.strip_prefix("HTTP/").ok_or(Bad::Request)?.strip_prefix("1.").ok_or(Bad::Version)?;
    if minor.len() != 1 || !minor.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Bad::Request);
    }
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if method.is_empty() || !method.bytes().all(token) {
        return Err(Bad::Request);
    }
    let mut hosts = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, _) = line.split_once(':').ok_or(Bad::Request)?;
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Bad::Request);
        }
        hosts += u32::from(name.eq_ignore_ascii_case("host"));
    }
    // Section 3.2: one Host field, in HTTP/1.1.
    if hosts > 1 || (hosts == 0 && minor != "0") {
        return Err(Bad::Request);
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Bad::Method),
    };
    // Absolute form (section 3.2.2) is for proxies, but to be taken.
    let path = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            target[7..].find('/').map_or("/", |slash| &target[7 + slash..])
        }
        _ => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if !path.starts_with('/') { Err(Bad::Request) } else { Ok(Request { head_only, path }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn what_browsers_and_scrapers_send_is_understood() {
        let get = |path| Some(Ok(Request { head_only: false, path }));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: curl\r\n\r\n"), get("/"));
        assert_eq!(parse(b"GET /metrics?x=1 HTTP/1.1\nhost:a\n\nrest"), get("/metrics"));
        assert_eq!(parse(b"\r\nGET http://10.0.0.2:9100/a/b HTTP/1.0\r\n\r\n"), get("/a/b"));
        assert_eq!(parse(b"GET http://10.0.0.2 HTTP/1.0\r\n\r\n"), get("/"));
        let head = Request { head_only: true, path: "/" };
        assert_eq!(parse(b"HEAD / HTTP/1.0\r\n\r\n"), Some(Ok(head)));
    }

    #[test]
    fn what_is_not_complete_is_waited_for_but_not_for_ever() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
        assert_eq!(parse(&[b'a'; LONGEST_HEAD]), Some(Err(Bad::TooLarge)));
    }

    #[test]
    fn each_refusal_has_its_status() {
        let bad = |head: &str| parse(format!("{head}\r\n\r\n").as_bytes()).map(|r| r.map(|_| ()));
        assert_eq!(bad("POST / HTTP/1.1\r\nHost: a"), Some(Err(Bad::Method)));
        assert_eq!(bad("GET / HTTP/2.0\r\nHost: a"), Some(Err(Bad::Version)));
        for head in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b",
            "GET x HTTP/1.0",
            "GET / HTTP/1.x",
            "GET / HTTP/1.0\r\nno colon",
            "GET / HTTP/1.0\r\n folded: x",
            "G(T / HTTP/1.0",
            "GET /\u{1} HTTP/1.0",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(bad(head), Some(Err(Bad::Request)), "{head:?}");
        }
        assert_eq!(parse(b"\xff\xfe\r\n\r\n"), Some(Err(Bad::Request)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Z]{0,4} ?[ -~]{0,40}(HTTP/1.[01])?[\r\n]{0,4}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }
}
