//! Showing on a terminal, or in a plain log, how training goes.

use std::io::IsTerminal;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell::aside;
use crate::sinks::{Progress, Silent, StepInfo, Watch};

/// A line at least this often where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The bars of this process: an evaluation during training has its own below that of the training.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4)));

/// Shows training on stderr: a bar on a terminal, lines elsewhere, nothing if `quiet`.
pub(super) fn terminal_progress(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar(ProgressBar::hidden()))
    } else {
        Box::new(Lines { total: 0, begun: Instant::now(), first: 0, last: None })
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn start(&mut self, step: u64, total: u64) {
        const TEMPLATE: &str = "[{elapsed}] {bar:30} {pos}/{len} ({per_sec}) ETA {eta}  {msg}";
        self.0.set_length(total);
        self.0.set_position(step);
        self.0.reset_eta();
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            self.0.set_style(style);
        }
        BARS.add(self.0.clone());
    }

    fn step(&mut self, info: &StepInfo<'_>) {
        self.0.set_message(short(info));
        self.0.set_position(info.step);
    }

    fn message(&mut self, text: &str) {
        if self.0.is_hidden() { aside(text) } else { self.0.println(text) }
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
        BARS.remove(&self.0);
    }
}

struct Lines {
    total: u64,
    begun: Instant,
    first: u64,
    last: Option<Instant>,
}

impl Progress for Lines {
    fn start(&mut self, step: u64, total: u64) {
        *self = Self { total, begun: Instant::now(), first: step, last: None };
    }

    fn step(&mut self, info: &StepInfo<'_>) {
        if self.last.is_some_and(|last| last.elapsed() < LINE_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let done = (info.step - self.first).max(1) as f64;
        let left = self.total.saturating_sub(info.step) as f64;
        let eta = self.begun.elapsed().as_secs_f64() / done * left;
        aside(format_args!("step {}/{}  {}  ETA {eta:.0} s", info.step, self.total, short(info)));
    }

    fn message(&mut self, text: &str) {
        aside(text);
    }

    fn finish(&mut self) {}
}

fn short(info: &StepInfo<'_>) -> String {
    format!(
        "epoch {}  loss {:.4}  lr {:.2e}  {:.0} img/s  wait {:.0}%",
        info.epoch,
        info.loss,
        info.lr,
        info.images_per_second,
        info.data_wait * 100.0
    )
}

/// Shows counted work on stderr: a bar on a terminal, lines elsewhere, nothing if `quiet`.
pub(super) fn terminal_watch(quiet: bool) -> Arc<dyn Watch> {
    if quiet {
        Arc::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Arc::new(CountBar(Mutex::new(ProgressBar::hidden())))
    } else {
        Arc::new(CountLines(Mutex::new(None)))
    }
}

#[derive(Debug)]
struct CountBar(Mutex<ProgressBar>);

impl CountBar {
    fn bar(&self) -> std::sync::MutexGuard<'_, ProgressBar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for CountBar {
    fn begin(&self, what: &str, total: u64) {
        const TEMPLATE: &str = "{msg} {bar:30} {pos}/{len} ({per_sec}) ETA {eta}";
        let bar = ProgressBar::new(total).with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        *self.bar() = BARS.add(bar);
    }

    fn at(&self, done: u64) {
        self.bar().set_position(done);
    }

    fn end(&self) {
        let bar = self.bar();
        bar.finish_and_clear();
        BARS.remove(&bar);
    }
}

/// What is counted, and when the last line about it was printed.
#[derive(Debug)]
struct Counted {
    what: String,
    total: u64,
    begun: Instant,
    last: Instant,
}

impl Counted {
    fn line(&self, done: u64, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let rate = done as f64 / seconds;
        let left = seconds / done.max(1) as f64 * self.total.saturating_sub(done) as f64;
        format!("{} {done}/{}  {rate:.1}/s  ETA {left:.0} s", self.what, self.total)
    }
}

#[derive(Debug)]
struct CountLines(Mutex<Option<Counted>>);

impl CountLines {
    fn counted(&self) -> std::sync::MutexGuard<'_, Option<Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for CountLines {
    fn begin(&self, what: &str, total: u64) {
        let now = Instant::now();
        *self.counted() = Some(Counted { what: what.to_owned(), total, begun: now, last: now });
    }

    fn at(&self, done: u64) {
        if let Some(counted) = self.counted().as_mut()
            && counted.last.elapsed() >= LINE_EVERY
        {
            counted.last = Instant::now();
            aside(counted.line(done, counted.begun.elapsed()));
        }
    }

    fn end(&self) {
        *self.counted() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_fast_and_how_long() {
        let now = Instant::now();
        let counted = Counted { what: "measured".to_owned(), total: 500, begun: now, last: now };
        assert_eq!(counted.line(125, Duration::from_secs(50)), "measured 125/500  2.5/s  ETA 150 s");
        assert_eq!(counted.line(500, Duration::from_secs(200)), "measured 500/500  2.5/s  ETA 0 s");
    }
}
