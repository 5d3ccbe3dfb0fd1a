//! The channels and the lock of [`super::Glommio`]: tokio's, in the shape that openraft asks for.
//!
//! No state of its own. Bounds are those that openraft is configured with.

use std::future::Future;

use openraft_rt::{SendError, TryRecvError, watch};
use tokio::sync;

/// Many senders, one receiver, bounded.
pub struct Mpsc;

pub struct MpscSender<T>(sync::mpsc::Sender<T>);
pub struct MpscReceiver<T>(sync::mpsc::Receiver<T>);
pub struct MpscWeakSender<T>(sync::mpsc::WeakSender<T>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        MpscSender(self.0.clone())
    }
}

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        MpscWeakSender(self.0.clone())
    }
}

impl openraft_rt::Mpsc for Mpsc {
    type Sender<T> = MpscSender<T>;
    type Receiver<T> = MpscReceiver<T>;
    type WeakSender<T> = MpscWeakSender<T>;

    fn channel<T>(buffer: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let (sender, receiver) = sync::mpsc::channel(buffer);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}

impl<T> openraft_rt::MpscSender<Mpsc, T> for MpscSender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}

impl<T> openraft_rt::MpscReceiver<T> for MpscReceiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> {
        self.0.recv()
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            sync::mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            sync::mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T> openraft_rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

/// One message.
pub struct Oneshot;

pub struct OneshotSender<T>(sync::oneshot::Sender<T>);

impl openraft_rt::Oneshot for Oneshot {
    type Sender<T> = OneshotSender<T>;
    type Receiver<T> = sync::oneshot::Receiver<T>;
    type ReceiverError = sync::oneshot::error::RecvError;

    fn channel<T>() -> (OneshotSender<T>, sync::oneshot::Receiver<T>) {
        let (sender, receiver) = sync::oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

impl<T> openraft_rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, message: T) -> Result<(), T> {
        self.0.send(message)
    }
}

/// A value that many watch.
pub struct Watch;

pub struct WatchSender<T>(sync::watch::Sender<T>);
pub struct WatchReceiver<T>(sync::watch::Receiver<T>);

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        WatchSender(self.0.clone())
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        WatchReceiver(self.0.clone())
    }
}

impl watch::Watch for Watch {
    type Sender<T> = WatchSender<T>;
    type Receiver<T> = WatchReceiver<T>;
    type Ref<'a, T: 'a> = sync::watch::Ref<'a, T>;

    fn channel<T>(first: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let (sender, receiver) = sync::watch::channel(first);
        (WatchSender(sender), WatchReceiver(receiver))
    }
}

impl<T> watch::WatchSender<Watch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.0.send(value).map_err(|error| watch::SendError(error.0))
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver(self.0.subscribe())
    }
}

impl<T> watch::WatchReceiver<Watch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        self.0.changed().await.map_err(|_| watch::RecvError(()))
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> sync::watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

/// A lock that is awaited.
pub struct Mutex<T>(sync::Mutex<T>);

impl<T: 'static> openraft_rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = sync::MutexGuard<'_, T>> {
        self.0.lock()
    }
}
