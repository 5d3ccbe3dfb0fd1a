//! The log: structured lines that never hold up a core.
//!
//! Any thread may log. A line is formatted by the thread that logs it and handed over through a bounded queue to one
//! thread that writes; when the queue is full the line is dropped and counted, because a slow disk must not stop a core.
//! A file is opened for appending, so rotation by copy and truncate works.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber, subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Config, LogFormat, LogLevel};

/// Lines that may wait for the writing thread.
const QUEUED_LINES_MAX: usize = 8192;

/// Of the process' one log; set by [`start`].
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    level: reload::Handle<LevelFilter, Registry>,
    dropped: ErrorCounter,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("can't open the log file '{path}': {source}")]
    Open { path: String, source: io::Error },
    #[error("can't start the log: {0}")]
    Start(String),
}

/// What is logged at a `loglevel`: `debug` everything, `verbose` up to debug, `notice` up to info, `warning` warnings
/// and errors.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::TRACE,
        LogLevel::Verbose => LevelFilter::DEBUG,
        LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
    }
}

/// Starts the log of the process, once, as `config` asks for it: level, file (or the standard output) and format.
/// Lines that are queued are written until the guard is dropped; keep it until the end of `main`.
pub fn start(config: &Config) -> Result<WorkerGuard, LogError> {
    let failed = |error: &dyn std::fmt::Display| LogError::Start(error.to_string());
    let (writer, colours): (Box<dyn Write + Send>, bool) = match config.logfile.as_str() {
        "" => (Box::new(io::stdout()), io::stdout().is_terminal()),
        path => {
            let open = OpenOptions::new().create(true).append(true).open(path);
            (Box::new(open.map_err(|source| LogError::Open { path: path.into(), source })?), false)
        }
    };
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES_MAX);
    let (writer, guard) = queue.thread_name("keyloom-log").finish(writer);
    let dropped = writer.error_counter();
    let (subscriber, level) = subscriber_to(writer, config.loglevel, config.log_format, colours);
    subscriber::set_global_default(subscriber).map_err(|e| failed(&e))?;
    LOG.set(Log { level, dropped }).map_err(|_| failed(&"it runs already"))?;
    Ok(guard)
}

/// Changes what is logged from now on (CONFIG SET loglevel). Does nothing before [`start`].
pub fn set_level(level: LogLevel) {
    if let Some(log) = LOG.get() {
        // Fails only when the subscriber is gone, and the process' one never goes.
        let _ = log.level.reload(filter(level));
    }
}

/// Lines that were dropped because the writing thread was behind.
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, |log| log.dropped.dropped_lines() as u64)
}

/// openraft tells of each heartbeat that is lost; what of that matters is told by the control core.
fn is_for_operators(metadata: &Metadata) -> bool {
    !metadata.target().starts_with("openraft") || *metadata.level() == Level::ERROR
}

fn subscriber_to<W>(
    writer: W,
    level: LogLevel,
    format: LogFormat,
    colours: bool,
) -> (impl Subscriber + Send + Sync, reload::Handle<LevelFilter, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let layer = fmt::layer().with_writer(writer).with_ansi(colours);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    (Registry::default().with(filter).with(layer.with_filter(filter_fn(is_for_operators))), handle)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn log_to(buffer: &Buffer, level: LogLevel, format: LogFormat) -> (impl Subscriber, impl Fn(LogLevel)) {
        let buffer = buffer.clone();
        let (subscriber, handle) = subscriber_to(move || buffer.clone(), level, format, false);
        (subscriber, move |level| handle.reload(filter(level)).unwrap())
    }

    #[test]
    fn a_line_has_time_level_target_message_and_fields() {
        let buffer = Buffer::default();
        let (subscriber, _) = log_to(&buffer, LogLevel::Notice, LogFormat::Text);
        subscriber::with_default(subscriber, || warn!(port = 7000, "ready"));
        let line = buffer.text();
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(words[0].ends_with('Z') && words[0].contains('T'), "{line}");
        assert_eq!(words[1..], ["WARN", "keyloom::admin::logging::tests:", "ready", "port=7000"]);
    }

    #[test]
    fn json_lines() {
        let buffer = Buffer::default();
        let (subscriber, _) = log_to(&buffer, LogLevel::Notice, LogFormat::Json);
        subscriber::with_default(subscriber, || info!(port = 7000, "ready"));
        let line: serde_json::Value = serde_json::from_str(&buffer.text()).unwrap();
        assert_eq!((&line["level"], &line["message"], &line["port"]), (&"INFO".into(), &"ready".into(), &7000.into()));
        assert!(line["timestamp"].is_string() && line["target"].is_string());
    }

    #[test]
    fn the_level_can_change() {
        let buffer = Buffer::default();
        let (subscriber, set_level) = log_to(&buffer, LogLevel::Warning, LogFormat::Text);
        subscriber::with_default(subscriber, || {
            info!("hidden");
            warn!("shown");
            set_level(LogLevel::Notice);
            info!("now shown");
            debug!("hidden");
            set_level(LogLevel::Verbose);
            debug!("debug shown");
            set_level(LogLevel::Warning);
            info!("hidden again");
        });
        let text = buffer.text();
        assert_eq!(text.matches("shown").count(), 3, "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}
