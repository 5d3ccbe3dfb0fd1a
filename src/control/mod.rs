//! The control core: the executor that runs what is not a client's request.
//!
//! Its main task receives what the data cores send, and sleeps in glommio in between. The admin endpoint
//! ([`super::http`]) runs in tasks beside it, which ask the data cores for their numbers through [`Control::ask`]. A data
//! core may be busy for long, so nobody waits for one without a bound: what it said last is kept.
//!
//! Invariant: no borrow of [`Control::state`] lives across an await.
//! Invariant: a core has at most one question open, so the rings from here never fill.

use std::cell::{Ref, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use glommio::io::BufferedFile;
use glommio::timer::timeout;

use crate::command::{Answer, Ask};
use crate::mesh::{Endpoint, Park, Wake};
use crate::net::forward::Message;
use crate::net::limits;
use crate::node::{Bells, Node, Order};
use crate::route::CoreId;
use crate::stats::Snapshot;

use super::http;

/// Runs the control core until the node stops; `admin` is where the admin endpoint listens, if it is wanted.
pub async fn run(
    me: CoreId,
    node: Arc<Node>,
    mesh: Endpoint<Message>,
    orders: Receiver<Order>,
    admin: Option<std::net::TcpListener>,
) -> io::Result<()> {
    // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
    let bell = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    // SAFETY: duplicates of the bell: one for the file that closes it, two that stay open for late ringers.
    let (file, bells) = unsafe {
        let fd = bell.as_raw_fd();
        (BufferedFile::from_raw_fd(libc::dup(fd)), Bells { shallow: libc::dup(fd), deep: libc::dup(fd) })
    };
    node.set_bells(me, bells);
    let control = Rc::new(Control::new(node, mesh));
    if let Some(listener) = admin {
        glommio::spawn_local(http::serve(listener, Rc::clone(&control))).detach();
    }
    loop {
        if let Ok(Order::Stop { .. }) = orders.try_recv() {
            break;
        }
        control.receive();
        if control.prepare_park() {
            // The bell keeps what was rung before the read.
            file.read_at(0, 8).await.map_err(io::Error::from)?;
            control.woke();
        } else {
            glommio::executor().yield_now().await;
        }
    }
    control.close();
    // Connections of the endpoint that are still open end with the executor.
    file.close().await.map_err(io::Error::from)
}

/// What the tasks of the control core share.
pub struct Control {
    node: Arc<Node>,
    state: RefCell<State>,
}

struct State {
    mesh: Endpoint<Message>,
    /// What each data core said last; before its first answer, what was true at its start: nothing counted yet.
    snapshots: Vec<Snapshot>,
    questions: Vec<Question>,
    /// Tasks that wait for an answer, whosever it is.
    waiting: Vec<Waker>,
}

/// What was asked of one data core.
#[derive(Clone, Copy)]
struct Question {
    /// Number of the last question.
    asked: u32,
    asked_at: Instant,
    /// Number of the last question that was answered. Invariant: `asked`, or one less while a question is open.
    answered: u32,
    answered_at: Instant,
}

impl Control {
    fn new(node: Arc<Node>, mesh: Endpoint<Message>) -> Control {
        let cores = mesh.executors() - 1;
        let now = Instant::now();
        let snapshot = |core| Snapshot { core: core as CoreId, ..Snapshot::default() };
        let question = Question { asked: 0, asked_at: now, answered: 0, answered_at: now };
        let state = State {
            mesh,
            snapshots: (0..cores).map(snapshot).collect(),
            questions: vec![question; cores],
            waiting: Vec::new(),
        };
        Control { node, state: RefCell::new(state) }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The latest numbers of all data cores.
    pub fn snapshots(&self) -> Ref<'_, [Snapshot]> {
        Ref::map(self.state.borrow(), |state| &*state.snapshots)
    }

    /// How old these numbers are, by core.
    pub fn ages(&self) -> Vec<Duration> {
        self.state.borrow().questions.iter().map(|question| question.answered_at.elapsed()).collect()
    }

    /// Asks every data core for its numbers, and waits for each until `patience` after it was asked. Returns the cores
    /// that have not answered. A core with an open question is not asked again: requests at the same time share one.
    pub async fn ask(&self, patience: Duration) -> Vec<CoreId> {
        let wanted = self.send_questions();
        loop {
            let late: Vec<CoreId> = {
                let state = self.state.borrow();
                let answered = wanted.iter().zip(&state.questions).enumerate();
                let late = answered.filter(|(_, (wanted, now))| now.answered.wrapping_sub(wanted.asked) as i32 <= -1);
                late.map(|(core, _)| core as CoreId).collect()
            };
            let left = |core: &CoreId| patience.saturating_sub(wanted[*core as usize].asked_at.elapsed());
            match late.iter().map(left).max() {
                None | Some(Duration::ZERO) => return late,
                // Answered or not, the next round sees.
                Some(left) => drop(timeout(left, self.next_answer()).await),
            }
        }
    }

    fn send_questions(&self) -> Vec<Question> {
        let mut state = self.state.borrow_mut();
        let State { mesh, questions, .. } = &mut *state;
        for (core, question) in questions.iter_mut().enumerate() {
            if question.asked != question.answered {
                continue;
            }
            let ask = question.asked.wrapping_add(1);
            let message = Message::Question { ask, part: core as u16, question: Box::new(Ask::Snapshot) };
            // A core that has closed never answers; the node is stopping.
            let _ = mesh.send(core, message);
            (question.asked, question.asked_at) = (ask, Instant::now());
        }
        ring(mesh, &self.node);
        questions.clone()
    }

    /// Waits until any core has answered.
    async fn next_answer(&self) -> Result<(), glommio::GlommioError<()>> {
        let mut registered = false;
        poll_fn(|context| {
            if std::mem::replace(&mut registered, true) {
                return Poll::Ready(Ok(()));
            }
            self.state.borrow_mut().waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes what the data cores have sent. Their answers are all that ever comes.
    fn receive(&self) {
        let mut state = self.state.borrow_mut();
        let State { mesh, snapshots, questions, waiting } = &mut *state;
        mesh.receive(limits::TURN_MESSAGES, |from, message| {
            let Message::Answer { ask, answer, .. } = message else { return };
            let Answer::Snapshot(snapshot) = *answer else { return };
            snapshots[from] = *snapshot;
            (questions[from].answered, questions[from].answered_at) = (ask, Instant::now());
            waiting.drain(..).for_each(Waker::wake);
        });
    }

    fn prepare_park(&self) -> bool {
        self.state.borrow().mesh.prepare_park(Park::Deep)
    }

    fn woke(&self) {
        self.state.borrow().mesh.woke();
    }

    fn close(&self) {
        let mesh = &mut self.state.borrow_mut().mesh;
        mesh.close(|_, _| {});
        ring(mesh, &self.node);
    }
}

/// Ends a turn's sends.
fn ring(mesh: &mut Endpoint<Message>, node: &Node) {
    mesh.for_each_dirty(|to, wake| node.ring_bell(to as CoreId, wake == Wake::Deep));
}
