//! Waiting without simulated time.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Waits here, so that no simulated time passes and nothing else happens, until a call is done by the threads of the store.
pub(crate) fn at_once<T>(call: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    // There is no scheduler here to which it could give way.
    let mut call = pin!(tokio::task::unconstrained(call));
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::park();
    }
}
