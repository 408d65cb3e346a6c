//! Small pieces for pages without a template engine.

/// Text as it may stand in an element or an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What lies between the first `<tag …>` and the last `</tag>`.
pub(crate) fn element<'a>(page: &'a str, tag: &str) -> Option<&'a str> {
    let open = page.find(&format!("<{tag}"))?;
    let start = open + page[open..].find('>')? + 1;
    let end = page.rfind(&format!("</{tag}>"))?;
    page.get(start..end)
}

/// The text of every `<style>` element.
pub(crate) fn styles(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(open) = rest.find("<style") {
        let Some(start) = rest[open..].find('>').map(|at| open + at + 1) else { break };
        let Some(end) = rest[start..].find("</style>").map(|at| start + at) else { break };
        found.push(&rest[start..end]);
        rest = &rest[end..];
    }
    found
}

/// Puts `folder/` before every relative `src` and `href`.
pub(crate) fn relocate(page: &str, folder: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((at, key)) =
        ["src=\"", "href=\""].into_iter().filter_map(|key| rest.find(key).map(|at| (at, key))).min()
    {
        let end = at + key.len();
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        let value = rest.split('"').next().unwrap_or("");
        let absolute = value.starts_with(['#', '/']) || value.contains(':');
        if !absolute && !value.is_empty() {
            out.push_str(folder);
            out.push('/');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<html><head><style>a{}</style></head><body class=\"x\"><img src=\"a.png\">\
        <img src=\"data:image/png;base64,AA\"><a href=\"#top\">&</a></body></html>";

    #[test]
    fn pieces_of_a_page() {
        assert_eq!(styles(PAGE), ["a{}"]);
        assert!(element(PAGE, "body").unwrap().starts_with("<img src=\"a.png\">"));
        assert!(element(PAGE, "main").is_none());
        let moved = relocate(PAGE, "instdisc");
        assert!(moved.contains("src=\"instdisc/a.png\"") && moved.contains("src=\"data:image"));
        assert!(moved.contains("href=\"#top\""));
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
