//! Reading what a server answers.

use ureq::http::{HeaderMap, StatusCode, Uri};

use super::cache::is_plain_name;

/// What a hub says about a file before sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) commit: String,
    /// Names the content.
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Facts {
    /// Reads them from the headers; `Err` says what is wrong.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap) -> Result<Self, String> {
        let linked_etag = header(headers, "x-linked-etag");
        let etag = linked_etag.or_else(|| header(headers, "etag")).ok_or("it states no etag")?;
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let commit = header(headers, "x-repo-commit").ok_or("it states no x-repo-commit, as a hub does")?;
        // An answer that points elsewhere has a length of its own.
        let own = || header(headers, "content-length").filter(|_| !status.is_redirection());
        let size = header(headers, "x-linked-size").or_else(own).ok_or("it states no size")?;
        for (what, word) in [("etag", etag), ("commit", commit)] {
            // They become names of files.
            if !is_plain_name(word) {
                return Err(format!("its {what} `{word}` is none"));
            }
        }
        let size = size.parse().ok().ok_or_else(|| format!("its size `{size}` is no number"))?;
        Ok(Self { commit: commit.to_owned(), etag: etag.to_owned(), size })
    }

    /// The SHA-256 of the content, where the etag is one.
    pub(super) fn sha256(&self) -> Option<&str> {
        let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        Some(self.etag.as_str()).filter(|etag| etag.len() == 64 && etag.chars().all(digit))
    }
}

/// A header's text.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// Where a redirection points: another address of the server that was asked, or another server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Same(Uri),
    Other(Uri),
}

/// Reads the `Location` of a redirection; `Err` says what is wrong.
pub(super) fn target(base: &Uri, headers: &HeaderMap) -> Result<Target, String> {
    let location = header(headers, "location").ok_or("it redirects without saying where")?;
    let nonsense = || format!("it redirects to `{location}`");
    if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(location.parse().ok().ok_or_else(nonsense)?);
        return Uri::from_parts(parts).ok().map(Target::Same).ok_or_else(nonsense);
    }
    let uri: Uri = location.parse().ok().ok_or_else(nonsense)?;
    match (uri.scheme(), uri.authority()) {
        (Some(_), Some(_)) => Ok(Target::Other(uri)),
        _ => Err(nonsense()),
    }
}

/// Where the body of an answer to a request for bytes from `asked` on begins; `Err` says what is wrong.
pub(super) fn first_byte(
    status: StatusCode,
    headers: &HeaderMap,
    asked: u64,
    size: u64,
) -> Result<u64, String> {
    let differs = |says: &str| format!("it sends `{says}` when asked for bytes {asked} to the end of {size}");
    if status == StatusCode::PARTIAL_CONTENT {
        let range = header(headers, "content-range").ok_or("it sends a part without saying which")?;
        let end = size.saturating_sub(1);
        let fits = [format!("bytes {asked}-{end}/{size}"), format!("bytes {asked}-{end}/*")];
        return if fits.iter().any(|fit| fit == range) { Ok(asked) } else { Err(differs(range)) };
    }
    // A server that knows no ranges sends everything.
    match header(headers, "content-length") {
        Some(length) if length.parse() != Ok(size) => Err(differs(&format!("{length} bytes"))),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderName;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|&(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn read(status: u16, lines: &[(&'static str, &str)]) -> Result<Facts, String> {
        Facts::read(StatusCode::from_u16(status).unwrap(), &headers(lines))
    }

    #[test]
    fn facts_are_those_of_the_linked_content() {
        let digest = "ab".repeat(32);
        let linked = [
            ("x-repo-commit", "c0ffee"),
            ("etag", "\"0123\""),
            ("x-linked-etag", &format!("\"{digest}\"")),
            ("content-length", "99"),
            ("x-linked-size", "7"),
        ];
        let facts = read(302, &linked).unwrap();
        assert_eq!(
            (facts.etag.as_str(), facts.size, facts.sha256()),
            (digest.as_str(), 7, Some(digest.as_str()))
        );
        let plain =
            read(200, &[("x-repo-commit", "c"), ("etag", "W/\"0f\""), ("content-length", "3")]).unwrap();
        assert_eq!((plain.etag.as_str(), plain.size, plain.sha256()), ("0f", 3, None));
    }

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        for etag in ["../../x", "/etc/passwd", "", "..", "a b", "a\\b", ".hidden"] {
            let lines = [("x-repo-commit", "c"), ("etag", etag), ("content-length", "3")];
            assert!(read(200, &lines).is_err(), "{etag}");
            let lines = [("x-repo-commit", etag), ("etag", "e"), ("content-length", "3")];
            assert!(read(200, &lines).is_err(), "{etag}");
        }
        assert!(read(200, &[("x-repo-commit", "c"), ("etag", "e"), ("content-length", "-3")]).is_err());
        assert!(read(302, &[("x-repo-commit", "c"), ("etag", "e"), ("content-length", "3")]).is_err());
    }

    #[test]
    fn targets() {
        let base: Uri = "https://hub.example/a?b".parse().unwrap();
        let at = |location: &str| target(&base, &headers(&[("location", location)]));
        assert_eq!(at("/c/d?e=1"), Ok(Target::Same("https://hub.example/c/d?e=1".parse().unwrap())));
        let other = "https://cdn.example/x?sign=1";
        assert_eq!(at(other), Ok(Target::Other(other.parse().unwrap())));
        for bad in ["", "c/d", "//evil.example/x", "mailto:a", "https://"] {
            assert!(at(bad).is_err(), "{bad}");
        }
        assert!(target(&base, &HeaderMap::new()).is_err());
    }

    #[test]
    fn ranges() {
        let part = |range: &str| {
            first_byte(StatusCode::PARTIAL_CONTENT, &headers(&[("content-range", range)]), 4, 9)
        };
        assert_eq!(part("bytes 4-8/9"), Ok(4));
        assert_eq!(part("bytes 4-8/*"), Ok(4));
        for bad in ["bytes 0-8/9", "bytes 4-7/9", "bytes 4-8/10", "items 4-8/9", ""] {
            assert!(part(bad).is_err(), "{bad}");
        }
        let whole = |length: &str| first_byte(StatusCode::OK, &headers(&[("content-length", length)]), 4, 9);
        assert_eq!(whole("9"), Ok(0));
        assert!(whole("5").is_err());
        assert_eq!(first_byte(StatusCode::OK, &HeaderMap::new(), 4, 9), Ok(0));
    }
}
