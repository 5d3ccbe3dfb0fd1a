//! A copy of the primary's data: received, handed to data cores and written to disk piece by piece.
//!
//! Owned by the control core.

use std::cell::Cell;
use std::rc::Rc;

use super::{Control, Replication, entries_of};
use crate::log::frame::{self, Index};
use crate::log::snapshot::{Options, SnapshotWriter};
use crate::replication::history::Chain;
use crate::replication::message;
use crate::replication::primary::Extent;

/// A copy that is being received.
pub(super) struct Receiving {
    pub(super) run: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) writer: Option<Rc<SnapshotWriter>>,
    /// It is whole: the state as of this index.
    pub(super) end: Option<(Index, Chain)>,
    /// What of the log has come behind it.
    pub(super) later: Vec<message::Frame>,
    /// What the primary's machine says is whole is written, and waits to be on disk.
    pub(super) written: Rc<Cell<bool>>,
}

impl Control {
    pub(super) fn begin_receiving(self: &Rc<Self>, run: u64) {
        tracing::info!(run, "a copy of the primary's data begins");
        let writer = self.log.borrow().wal().is_some().then(|| self.saves.borrow_mut().directory());
        let writer = match writer {
            Some(Ok(dir)) => Some(SnapshotWriter::new(Options { dir, keep: 1, replaces: true })),
            Some(Err(error)) => {
                tracing::error!(error, "the copy cannot be kept");
                None
            }
            None => None,
        };
        let written = Rc::new(Cell::new(writer.is_none()));
        if let Some(writer) = &writer {
            glommio::spawn_local(Rc::clone(writer).run()).detach();
            let (control, writer, written) = (Rc::clone(self), Rc::clone(writer), Rc::clone(&written));
            glommio::spawn_local(async move {
                let result = writer.finished().await;
                let is_current = control
                    .replication
                    .borrow()
                    .receiving
                    .as_ref()
                    .is_some_and(|receiving| Rc::ptr_eq(&receiving.written, &written));
                match result {
                    _ if !is_current => return,
                    Ok(_) => written.set(true),
                    Err(error) => {
                        tracing::error!(%error, "the copy cannot be kept");
                        control.break_upstream();
                    }
                }
                control.advance();
            })
            .detach();
        }
        {
            let mut replication = self.replication.borrow_mut();
            if let Some(Receiving { writer: Some(writer), .. }) = replication.receiving.take() {
                writer.abort();
            }
            replication.receiving =
                Some(Receiving { run, bytes: Vec::new(), writer, end: None, later: Vec::new(), written });
            replication.apply.begin_copy();
            replication.relayed.clear();
        }
        {
            // What is copied from here meanwhile is neither the old data nor the new.
            let mut log = self.log.borrow_mut();
            let ends = log.runs.spoil_all();
            log.out.extend(ends);
            log.backlog.clear();
        }
        self.serve(|primary, now_ms, out| primary.suspend(now_ms, out));
        self.change_standing(|standing| standing.loading = true);
    }

    pub(super) fn receive_piece(self: &Rc<Self>, bytes: &[u8]) {
        let mut replication = self.replication.borrow_mut();
        let Replication { receiving: Some(receiving), apply, .. } = &mut *replication else { return };
        receiving.bytes.extend_from_slice(bytes);
        let gathered = std::mem::take(&mut receiving.bytes);
        let mut rest = &gathered[..];
        let mut error = None;
        loop {
            match frame::take_frame(&mut rest) {
                Ok(Some(frame)) => {
                    if let Err(wrong) = apply.copy(&frame) {
                        error = Some(wrong.to_string());
                        break;
                    }
                    if let Some(writer) = &receiving.writer {
                        // What is wrong, its end tells.
                        let _ = writer.push(frame);
                    }
                }
                Ok(None) => break,
                Err(wrong) => {
                    error = Some(wrong.to_string());
                    break;
                }
            }
        }
        receiving.bytes = rest.to_vec();
        drop(replication);
        if let Some(error) = error {
            tracing::error!(error, "the copy of the primary's data is damaged");
            self.break_upstream();
        }
    }

    /// Ends a copy that is whole, applied and on disk.
    pub(super) fn finish_receiving(self: &Rc<Self>) {
        let (run, end, chain, later) = {
            let mut replication = self.replication.borrow_mut();
            let drained = replication.apply.is_drained();
            let Some(receiving) = &mut replication.receiving else { return };
            if !drained || !receiving.written.get() {
                return;
            }
            let Some((end, chain)) = receiving.end.take() else { return };
            let (run, later) = (receiving.run, std::mem::take(&mut receiving.later));
            replication.receiving = None;
            replication.apply.start_at(end);
            replication.chain = chain.clone();
            (run, end, chain, later)
        };
        let entries = entries_of(&chain.upto(end));
        {
            let mut log = self.log.borrow_mut();
            log.backlog.clear();
            log.sequencer.follow(entries.clone(), end);
            if let Some(wal) = log.wal()
                && let Err(error) = wal.restart(entries, end + 1)
            {
                tracing::error!(%error, "the log cannot begin anew");
            }
        }
        tracing::info!(run, end, "the copy of the primary's data is complete");
        let durable = self.log.borrow().durable().min(end);
        let extent = Extent { oldest: end + 1, end, commit: end, durable };
        self.serve(|primary, now_ms, out| primary.relay(now_ms, chain, extent, out));
        self.change_standing(|standing| standing.loading = false);
        later.iter().for_each(|frame| self.append_received(frame));
        self.follow(|replica, _, out| replica.copy_durable(run, out));
    }
}
