//! The routes with what they say about themselves. What is registered here is routed and documented, or neither.

use axum::Router;
use axum::handler::Handler;
use axum::routing::MethodFilter;
use http::Method;

use crate::openapi::arguments::{Access, Arguments, Signature};
use crate::openapi::operation::Operation;
use crate::state::Shared;

/// Stands before the paths of all operations. The router is not nested below it: that would rewrite the URI of every
/// request.
pub(crate) const PREFIX: &str = "/api/v1";

/// Stands before paths that are not below [`PREFIX`]: an API of its own, which this server does not have.
const INGEST: &str = "/ingest/";

/// A route: a method and a path with what is known about them.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// The whole path, with its parameters in braces.
    pub(crate) path: String,
    pub(crate) signature: Signature,
    pub(crate) operation: Operation,
}

/// Routes.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<Shared>,
    all: Vec<Route>,
}

macro_rules! methods {
    ($($name:ident $method:ident),*) => {
        $(
            #[doc = concat!("Adds an operation that is called by ", stringify!($method), ". The path is below [`PREFIX`].")]
            pub(crate) fn $name<H, T>(self, path: &str, handler: H, operation: Operation) -> Self
            where
                H: Handler<T, Shared>,
                T: Arguments + 'static,
            {
                self.on(&Method::$method, path, handler, operation)
            }
        )*
    };
}

impl Routes {
    /// No routes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

    /// Adds an operation that is called by this method.
    pub(crate) fn on<H, T>(mut self, method: &Method, path: &str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Shared>,
        T: Arguments + 'static,
    {
        let path = if path.starts_with(INGEST) { path.to_owned() } else { format!("{PREFIX}{path}") };
        self.router = self.router.route(&path, axum::routing::on(filter(method), handler));
        let mut signature = T::signature();
        if signature.access == Access::Tenant && !path.contains("{app_id}") {
            // The application is the operator's own.
            signature.access = Access::Operator;
        }
        self.all.push(Route { method: method.clone(), path, signature, operation });
        self
    }

    /// Adds other routes.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.all.extend(other.all);
        self
    }

    /// The router, and what is known about its routes.
    pub(crate) fn into_parts(self) -> (Router<Shared>, Vec<Route>) {
        (self.router, self.all)
    }
}

/// The filter for one of the methods that operations have.
fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}
