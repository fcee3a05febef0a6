//! The head of an HTTP/1 request (RFC 9112), as far as the built-in servers care for it.

/// The longest head that is read, in bytes.
pub const LONGEST: usize = 8 << 10;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, as it came.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// Whether the connection is to stay after the answer.
    pub keep: bool,
    /// Bytes of body that follow; none if the request does not say.
    pub length: Option<u64>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects: bool,
}

/// The end of the head in `bytes`, if it is there: the number of bytes up to and with the empty line.
pub fn end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads a head, which ends with the empty line. `None` if it is not one.
pub fn parse(head: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || method.is_empty() || !target.starts_with('/') {
        return None;
    }
    let keep = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return None,
    };
    let path = target.split(['?', '#']).next()?.to_owned();
    let mut request = Request { method: method.to_owned(), path, keep, length: None, chunked: false, expects: false };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        // A blank before the colon is how requests are smuggled (RFC 9112, section 5.1).
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_whitespace()) {
            return None;
        }
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let length = value.parse().ok().filter(|_| digits)?;
            if request.length.replace(length).is_some_and(|earlier| earlier != length) {
                return None;
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            request.chunked = true;
        } else if name.eq_ignore_ascii_case("expect") {
            request.expects = value.eq_ignore_ascii_case("100-continue");
        } else if name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                match option {
                    _ if option.eq_ignore_ascii_case("close") => request.keep = false,
                    _ if option.eq_ignore_ascii_case("keep-alive") => request.keep = true,
                    _ => {}
                }
            }
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_clients_send() {
        let request = parse(b"PUT /sink?x=1 HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 12\r\nExpect: 100-continue\r\n\r\n");
        let expected = Request {
            method: "PUT".into(),
            path: "/sink".into(),
            keep: true,
            length: Some(12),
            chunked: false,
            expects: true,
        };
        assert_eq!(request, Some(expected));
        let keep = |text: &str| parse(text.as_bytes()).map(|request| request.keep);
        assert_eq!(keep("GET / HTTP/1.0\r\n\r\n"), Some(false));
        assert_eq!(keep("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), Some(true));
        assert_eq!(keep("GET / HTTP/1.1\r\nConnection: te, close\r\n\r\n"), Some(false));
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for bad in [
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET example HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length : 1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(head: Vec<u8>, tail in "[ -~\r\n]{0,80}") {
            parse(&head);
            parse(format!("GET / HTTP/1.1\r\n{tail}\r\n\r\n").as_bytes());
        }
    }
}
