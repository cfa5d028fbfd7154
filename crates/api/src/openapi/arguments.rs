//! What the signature of a handler says about its operation: each kind of argument adds its part.

use axum::Extension;
use axum::extract::State;
use http::HeaderMap;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::access::caller::{Operator, Reader, Tenant};
use crate::http::body::{Incoming, Ledger};
use crate::http::json::JsonBody;
use crate::http::parameter::Parameter;
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::state::Shared;
use crate::wire::typos::Warnings;

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Tokens of the environment.
    Operator,
    /// Tokens of the environment, and those of the application that the path names.
    Tenant,
    /// Tokens of the environment and of its applications.
    Reader,
}

/// Gives the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What is read off the signature of a handler.
#[derive(Default)]
pub(crate) struct Signature {
    /// Who may call.
    pub(crate) access: Access,
    /// The parameters of the query string.
    pub(crate) query: Vec<Parameter>,
    /// The body.
    pub(crate) body: Option<SchemaOf>,
}

/// A kind of argument that handlers have.
pub(crate) trait Argument {
    /// Adds what it means for the operation.
    fn describe(signature: &mut Signature);
}

impl Argument for Operator {
    fn describe(signature: &mut Signature) {
        signature.access = Access::Operator;
    }
}

impl<N> Argument for Tenant<N> {
    fn describe(signature: &mut Signature) {
        // A handler that also wants the operator is his alone.
        if signature.access != Access::Operator {
            signature.access = Access::Tenant;
        }
    }
}

impl Argument for Reader {
    fn describe(signature: &mut Signature) {
        signature.access = Access::Reader;
    }
}

impl<T: FromQuery> Argument for Query<T> {
    fn describe(signature: &mut Signature) {
        signature.query.extend(QueryString::parameters_of::<T>());
    }
}

impl<T: JsonSchema> Argument for JsonBody<T> {
    fn describe(signature: &mut Signature) {
        signature.body = Some(SchemaGenerator::subschema_for::<T>);
    }
}

/// Arguments that say nothing about the operation. What a raw body holds is said by the operation itself.
macro_rules! silent {
    ($($argument:ty),*) => {
        $(impl Argument for $argument {
            fn describe(_: &mut Signature) {}
        })*
    };
}

silent!(Params, HeaderMap, Incoming, Ledger, State<Shared>, Extension<Warnings>);

/// The arguments of a handler, in the form in which axum's `Handler` has them: a marker, then the arguments.
pub(crate) trait Arguments {
    /// What they say about the operation.
    fn signature() -> Signature;
}

macro_rules! arguments {
    ($($argument:ident),*) => {
        impl<M, $($argument: Argument),*> Arguments for (M, $($argument,)*) {
            fn signature() -> Signature {
                let describe: &[fn(&mut Signature)] = &[$($argument::describe),*];
                let mut signature = Signature::default();
                describe.iter().for_each(|describe| describe(&mut signature));
                signature
            }
        }
    };
}

arguments!();
arguments!(A);
arguments!(A, B);
arguments!(A, B, C);
arguments!(A, B, C, D);
arguments!(A, B, C, D, E);
arguments!(A, B, C, D, E, F);
arguments!(A, B, C, D, E, F, G);
