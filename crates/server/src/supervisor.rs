//! Watching the parts that the server cannot do without: the agents that store, deliver, wake and clean up.
//!
//! Each of them runs until it is told to end. One that has ended by itself has panicked, or met an error that it took for the
//! end; nothing brings it back, and the others go on as if it were there. So the process ends: it takes no more connections,
//! finishes what it can within a bound, and exits with a failure, so that whoever started it starts it again. Nothing that
//! was acknowledged is lost by that.

use std::time::Duration;

/// How often the parts are looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Whether a part has ended, though nobody told it to.
type HasEnded = Box<dyn Fn() -> bool + Send + Sync>;

/// The parts, by name.
#[derive(Default)]
pub(crate) struct Supervisor(Vec<(&'static str, HasEnded)>);

impl Supervisor {
    /// Watches one more part.
    pub(crate) fn watch(&mut self, part: &'static str, has_ended: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.push((part, Box::new(has_ended)));
    }

    /// Completes when a part has ended, with its name.
    pub(crate) async fn first_to_end(&self) -> &'static str {
        loop {
            if let Some((part, _)) = self.0.iter().find(|(_, has_ended)| has_ended()) {
                return part;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_named() {
        let mut supervisor = Supervisor::default();
        let (lives, dies) = (tokio::spawn(std::future::pending::<()>()), tokio::spawn(async { panic!("a bug") }));
        let (lives_on, died) = (lives.abort_handle(), dies.abort_handle());
        supervisor.watch("lives", move || lives_on.is_finished());
        supervisor.watch("dies", move || died.is_finished());
        assert_eq!(supervisor.first_to_end().await, "dies");
    }
}
