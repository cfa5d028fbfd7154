//! On whose behalf the store is asked, so that those whose reads wait take turns. It goes with the task, not with the arguments:
//! nothing that is read depends on it, only when.
//!
//! A request is a stranger's until its caller is known. What the process reads by itself is nobody's.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;

/// Who asks: told apart by hashes with a secret of this process, which nobody can make meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The environment.
    pub environment: u64,
    /// The application, if it is its token's request; otherwise the operator's.
    pub application: u64,
}

static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

tokio::task_local! {
    static ASKER: Cell<Asker>;
}

impl Asker {
    /// The process itself.
    pub const PROCESS: Self = Self { environment: 0, application: 0 };

    /// All who have not said who they are, or nothing that was believed yet, together.
    pub const STRANGERS: Self = Self { environment: 0, application: 1 };

    /// The operator of an environment, or one of its applications.
    pub fn of(environment: &EnvironmentId, application: Option<ApplicationId>) -> Self {
        let hashed = HASHES.hash_one(environment);
        Self { environment: hashed, application: application.map_or(0, |application| HASHES.hash_one(application)) }
    }

    /// Who asks in this task.
    pub fn current() -> Self {
        ASKER.try_with(Cell::get).unwrap_or(Self::PROCESS)
    }

    /// From here on, the request of this task is this caller's. Nothing happens outside of [`as_stranger`].
    pub fn named(self) {
        let _ = ASKER.try_with(|asker| asker.set(self));
    }
}

/// Work of a request that goes on in a task of its own, also if whoever asked has gone: it asks on behalf of whoever this task does.
pub fn on_behalf<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    ASKER.scope(Cell::new(Asker::current()), work)
}

/// Answers a request, as a stranger's until it is known whose it is ([`Asker::named`]).
pub async fn as_stranger<T>(request: impl Future<Output = T>) -> T {
    ASKER.scope(Cell::new(Asker::STRANGERS), request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_on_in_a_task_of_its_own_asks_on_behalf_of_who_began_it() {
        let caller = Asker::of(&EnvironmentId::default_environment(), None);
        let asks = || tokio::spawn(on_behalf(async { Asker::current() }));
        let asked = as_stranger(async {
            let stranger = asks().await;
            caller.named();
            [stranger, asks().await].map(Result::ok)
        });
        assert_eq!(asked.await, [Some(Asker::STRANGERS), Some(caller)]);
        assert_eq!(asks().await.ok(), Some(Asker::PROCESS));
    }
}
