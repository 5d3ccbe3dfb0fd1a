//! Signals, turned into messages for the main thread.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{CONTROL_GRACE, End, Node, Order};

/// See the module.
pub(super) struct Signals(Receiver<i32>);

impl Signals {
    pub(super) fn watch() -> io::Result<Signals> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let (to, from) = crossbeam_channel::bounded(4);
        std::thread::Builder::new().name("keyloom-signals".into()).spawn(move || {
            for signal in signals.forever() {
                let _ = to.try_send(signal);
            }
        })?;
        Ok(Signals(from))
    }

    /// Waits for a reason to stop, and names it. A signal goes to the control core first, which may have something to
    /// save; it has a bounded time for that, and a second signal ends the wait.
    pub(super) fn wait(&self, ends: &Receiver<End>, node: &Node) -> &'static str {
        let mut signalled: Option<(&'static str, Instant)> = None;
        loop {
            let late = signalled.map_or_else(crossbeam_channel::never, |(_, by)| crossbeam_channel::at(by));
            crossbeam_channel::select! {
                recv(self.0) -> signal => {
                    let name = if signal == Ok(signal_hook::consts::SIGINT) { "SIGINT" } else { "SIGTERM" };
                    if signalled.is_some() {
                        return name;
                    }
                    let config = node.state.config.latest().config;
                    let how = if name == "SIGINT" { config.shutdown_on_sigint } else { config.shutdown_on_sigterm };
                    let patience = Duration::from_secs(config.shutdown_timeout_s) + CONTROL_GRACE;
                    signalled = Some((name, Instant::now() + patience));
                    node.order(node.orders.len() - 1, Order::ShutDown(how));
                },
                recv(ends) -> end => match end {
                    Ok(End::Aborted) => signalled = None,
                    _ => return signalled.map_or("SHUTDOWN", |(name, _)| name),
                },
                recv(late) -> _ => {
                    tracing::error!("the control core does not answer");
                    return "a signal";
                }
            }
        }
    }
}
