//! Bounds, declared where they hold: each crate lists its own with [`limits!`](macro@crate::limits), which defines the
//! constants, and `docs/limits.md` is generated from all of them. So the table cannot say anything but what the code does.

/// One bound, as `docs/limits.md` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The heading that it stands under, e.g. `Endpoints`.
    pub group: &'static str,
    /// What is bounded, in words.
    pub what: &'static str,
    /// The bound with its unit, e.g. `2048 bytes`, or the setting that holds it.
    pub bound: String,
    /// What happens beyond it, e.g. `422`.
    pub beyond: &'static str,
}

/// Defines bounds as constants, and `limits()`, which lists them for `docs/limits.md`. A bound that a setting holds is
/// listed by the setting's name, and what has none with the reason.
///
/// ```
/// mod tea {
///     postrider_domain::limits! {
///         in "Tea";
///         /// Cups of one person
///         pub const MAX_CUPS: usize = 3, "cups", beyond "422";
///         /// How long it steeps
///         setting "tea.steep", beyond "it is bitter";
///         /// Talk
///         unbounded because "nobody has to listen";
///     }
/// }
/// assert_eq!(tea::MAX_CUPS, 3);
/// assert_eq!(tea::limits()[1].bound, "setting `tea.steep`");
/// assert_eq!(tea::limits()[2].bound, "none");
/// ```
#[macro_export]
macro_rules! limits {
    (@rows $rows:ident $group:literal;) => {};
    (@rows $rows:ident $group:literal;
        $(#[doc = $doc:literal])+ $vis:vis const $name:ident : $ty:ty = $value:expr, $unit:literal, beyond $beyond:literal;
        $($rest:tt)*
    ) => {
        $rows.push($crate::limits::Limit {
            group: $group,
            what: concat!($($doc),+).trim_ascii(),
            bound: format!("{} {}", $name, $unit),
            beyond: $beyond,
        });
        $crate::limits!(@rows $rows $group; $($rest)*);
    };
    (@rows $rows:ident $group:literal;
        $(#[doc = $doc:literal])+ setting $setting:literal, beyond $beyond:literal;
        $($rest:tt)*
    ) => {
        $rows.push($crate::limits::Limit {
            group: $group,
            what: concat!($($doc),+).trim_ascii(),
            bound: concat!("setting `", $setting, "`").to_owned(),
            beyond: $beyond,
        });
        $crate::limits!(@rows $rows $group; $($rest)*);
    };
    (@rows $rows:ident $group:literal;
        $(#[doc = $doc:literal])+ unbounded because $why:literal;
        $($rest:tt)*
    ) => {
        $rows.push($crate::limits::Limit {
            group: $group,
            what: concat!($($doc),+).trim_ascii(),
            bound: "none".to_owned(),
            beyond: $why,
        });
        $crate::limits!(@rows $rows $group; $($rest)*);
    };
    (@rows $rows:ident $group:literal; in $next:literal; $($rest:tt)*) => {
        $crate::limits!(@rows $rows $next; $($rest)*);
    };
    (@constants) => {};
    (@constants
        $(#[doc = $doc:literal])+ $vis:vis const $name:ident : $ty:ty = $value:expr, $unit:literal, beyond $beyond:literal;
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])+
        $vis const $name: $ty = $value;
        $crate::limits!(@constants $($rest)*);
    };
    (@constants $(#[doc = $doc:literal])+ setting $setting:literal, beyond $beyond:literal; $($rest:tt)*) => {
        $crate::limits!(@constants $($rest)*);
    };
    (@constants $(#[doc = $doc:literal])+ unbounded because $why:literal; $($rest:tt)*) => {
        $crate::limits!(@constants $($rest)*);
    };
    (@constants in $next:literal; $($rest:tt)*) => {
        $crate::limits!(@constants $($rest)*);
    };
    (in $group:literal; $($rest:tt)*) => {
        $crate::limits!(@constants $($rest)*);

        /// The bounds that are declared here, for `docs/limits.md`.
        pub fn limits() -> Vec<$crate::limits::Limit> {
            let mut rows = Vec::new();
            $crate::limits!(@rows rows $group; $($rest)*);
            rows
        }
    };
}
