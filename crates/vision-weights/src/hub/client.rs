//! Asking a hub, with patience.

use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::answer::{Facts, Target, header, target};
use super::options::HubOptions;
use crate::{Error, HubFile, Result};

/// What may stand in an address as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A hub points to where a repository has gone and to where its content is; more is a circle.
const MAX_REDIRECTIONS: usize = 8;

/// Before the second attempt; each further pause is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Letters of an explanation that errors repeat.
const MAX_REASON: usize = 200;

/// Why an attempt failed.
pub(super) enum Failure {
    /// For a reason that may pass.
    Passing(Error),
    Final(Error),
}

/// An error of this machine will not pass.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

type Attempt<T> = std::result::Result<T, Failure>;

/// A connection to a hub.
pub(super) struct Client<'o> {
    agent: Agent,
    pub(super) options: &'o HubOptions,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Get,
}

impl<'o> Client<'o> {
    pub(super) fn new(options: &'o HubOptions) -> Self {
        let silence = Some(options.timeout);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(options.endpoint.starts_with("https:"))
            // Redirections are followed here, where it is known who may see the token.
            .max_redirects(0)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            // Lengths and digests are those of the content itself.
            .accept_encoding("identity")
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), options }
    }

    /// The patience of one undertaking.
    pub(super) fn patience(&self) -> Patience {
        Patience { retries: self.options.retries, used: 0 }
    }

    /// What the hub says about a file.
    pub(super) fn ask(&self, file: &HubFile) -> Result<Facts> {
        let url = self.url(file, file.revision())?;
        let mut patience = self.patience();
        loop {
            match self.ask_once(&url) {
                Ok(facts) => return Ok(facts),
                Err(failure) => patience.after(failure)?,
            }
        }
    }

    fn ask_once(&self, url: &Uri) -> Attempt<Facts> {
        let (url, response) = self.send(Method::Head, url.clone(), None)?;
        Facts::read(response.status(), response.headers()).map_err(|problem| answer(&url, problem))
    }

    /// The content of a file at a commit, from a byte on; the server decides whether it starts there.
    pub(super) fn content(&self, file: &HubFile, commit: &str, from: u64) -> Attempt<(Uri, Response<Body>)> {
        // The commit, not the revision: a branch may have moved since the hub was asked.
        let url = self.url(file, commit)?;
        self.send(Method::Get, url, Some(from).filter(|&from| from > 0))
    }

    fn url(&self, file: &HubFile, revision: &str) -> Result<Uri> {
        let endpoint = self.options.endpoint.trim_end_matches('/');
        let path: Vec<String> =
            file.file().split('/').map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect();
        let revision = utf8_percent_encode(revision, RESERVED);
        let url = format!("{endpoint}/{}/resolve/{revision}/{}", file.repo(), path.join("/"));
        match url.parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(uri),
            _ => Err(Error::Address { address: url, problem: "the endpoint is no http or https address" }),
        }
    }

    /// Sends a request and follows where it is pointed. What a hub says about a file stands in the answer that
    /// points to another server, so that one ends a [`Method::Head`].
    fn send(&self, method: Method, mut url: Uri, from: Option<u64>) -> Attempt<(Uri, Response<Body>)> {
        let mut token = self.options.token.as_deref();
        for _ in 0..=MAX_REDIRECTIONS {
            let mut request = match method {
                Method::Head => self.agent.head(url.clone()),
                Method::Get => self.agent.get(url.clone()),
            };
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|problem| connection(&url, problem))?;
            if !is_redirection(response.status()) {
                check(&url, &response)?;
                return Ok((url, response));
            }
            match target(&url, response.headers()).map_err(|problem| answer(&url, problem))? {
                Target::Same(next) => url = next,
                Target::Other(_) if method == Method::Head => return Ok((url, response)),
                Target::Other(next) => {
                    if (next.scheme(), next.authority()) != (url.scheme(), url.authority()) {
                        token = None;
                    }
                    url = next;
                }
            }
        }
        Err(answer(&url, format!("it is the end of {MAX_REDIRECTIONS} redirections and redirects again")))
    }
}

/// How many attempts are left.
pub(super) struct Patience {
    retries: u32,
    used: u32,
}

impl Patience {
    /// Waits until it is time for another attempt, or returns why there is none.
    pub(super) fn after(&mut self, failure: Failure) -> Result<()> {
        let error = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error) => error,
        };
        if self.used >= self.retries {
            return Err(match error {
                Error::Connection { url, source, .. } => {
                    Error::Connection { url, attempts: self.used.saturating_add(1), source }
                }
                other => other,
            });
        }
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.used));
        thread::sleep(pause.min(LONGEST_PAUSE));
        self.used += 1;
        Ok(())
    }

    /// Starts anew, since the last attempts were worth it.
    pub(super) fn renew(&mut self) {
        self.used = 0;
    }
}

fn is_redirection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn check(url: &Uri, response: &Response<Body>) -> Attempt<()> {
    let status = response.status();
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(());
    }
    let says = header(response.headers(), "x-error-message").unwrap_or_default();
    let reason = match (says, status.as_u16()) {
        ("", 401) => "there is no such repository, or it needs a token",
        ("", 403) => "the token does not open this repository",
        ("", 404) => "there is no such repository, revision or file",
        ("", _) => status.canonical_reason().unwrap_or("no reason given"),
        (says, _) => says,
    };
    let reason = reason.chars().take(MAX_REASON).collect();
    let error = Error::Status { url: url.to_string(), status: status.as_u16(), reason };
    let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 416 | 429);
    Err(if passes { Failure::Passing(error) } else { Failure::Final(error) })
}

/// An answer that no hub gives.
pub(super) fn answer(url: &Uri, problem: impl Into<String>) -> Failure {
    Failure::Final(Error::Answer { url: url.to_string(), problem: problem.into() })
}

/// A request that could not be carried through.
pub(super) fn connection(url: &Uri, problem: ureq::Error) -> Failure {
    use ureq::Error as Theirs;
    let passes = matches!(
        problem,
        Theirs::Io(_)
            | Theirs::Timeout(_)
            | Theirs::HostNotFound
            | Theirs::ConnectionFailed
            | Theirs::Protocol(_)
            | Theirs::BodyStalled
    );
    let error = Error::Connection { url: url.to_string(), attempts: 1, source: Box::new(problem) };
    if passes { Failure::Passing(error) } else { Failure::Final(error) }
}
