//! `postrider config`: what can be set, what is set and where, and whether it is right.

use std::fmt::Write as _;
use std::process::ExitCode;

use postrider_domain::settings::Setting;

use super::settings::Settings;
use crate::config::{Loaded, OTHER_VARIABLES, Valued, reference, variable, warnings};
use crate::{limits, memory, terminal};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print every setting: what it does, its environment variable and its default
    Reference {
        /// Print Markdown, as in docs/configuration.md
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the settings that `serve` would use: a line for each problem, or for what is probably a mistake, and what they let memory grow to
    Check {
        #[command(flatten)]
        given: Given,
        /// List what the memory is for, and which setting bounds each part
        #[arg(long)]
        memory: bool,
    },
    /// Show the settings that `serve` would use, each with where it comes from; secrets are masked
    Show {
        #[command(flatten)]
        given: Given,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every limit as Markdown, as in docs/limits.md
    Limits,
}

/// Variables that many programs know: whose certificates are trusted.
const OF_CERTIFICATES: [(&str, &str); 2] = [
    (
        "SSL_CERT_FILE",
        "a file (PEM) of certificates of authorities that receivers' certificates are checked by, in place of the system's",
    ),
    ("SSL_CERT_DIR", "the same, folders of such files, separated by colons; if both are set, both count"),
];

/// What `serve` takes, too.
#[derive(Debug, clap::Args)]
struct Given {
    #[command(flatten)]
    settings: Settings,
    /// Address and port to listen on [default: 127.0.0.1:8071]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// Prints what was asked for. Settings that are wrong are told with a line each, and a failure.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;

    let text = match &args.action {
        Action::Reference { markdown: true, .. } => as_markdown(&reference()),
        Action::Reference { json: true, .. } => as_json(&reference()),
        Action::Reference { .. } => as_toml(&reference()),
        Action::Check { given, memory } => match given.load() {
            Some(loaded) => match is_a_folder(&loaded) {
                None => check(&loaded, *memory),
                Some(problem) => {
                    terminal::error_line(&problem);
                    return Ok(ExitCode::FAILURE);
                }
            },
            None => return Ok(ExitCode::FAILURE),
        },
        Action::Show { given, json } => match given.load() {
            Some(loaded) if *json => show_json(&loaded.values),
            Some(loaded) => show(&loaded.values),
            None => return Ok(ExitCode::FAILURE),
        },
        Action::Limits => limits::as_markdown(),
    };
    write!(terminal::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

impl Given {
    /// The settings; `None` if there are problems, which were told.
    fn load(&self) -> Option<Loaded> {
        match self.settings.load(self.listen.as_ref()) {
            Ok(loaded) => Some(loaded),
            Err(problems) => {
                problems.0.iter().for_each(|problem| terminal::error_line(problem));
                None
            }
        }
    }
}

/// Says so if there is a folder where the store is to be: no server starts on it.
fn is_a_folder(loaded: &Loaded) -> Option<String> {
    let path = loaded.config.sqlite_path().ok().filter(|path| path.is_dir())?;
    let source =
        loaded.values.iter().find(|valued| valued.setting.path() == "store.url").map(|valued| &valued.source)?;
    Some(format!(
        "store.url names a folder, {}, and must name a file in it, as in postrider.db ({source})",
        path.display()
    ))
}

fn check(loaded: &Loaded, with_parts: bool) -> String {
    let set = loaded.values.iter().filter(|valued| valued.source.kind() != "default").count();
    let warnings: String = warnings(loaded).iter().map(|warning| format!("\nWarning: {warning}.\n")).collect();
    let parts = memory::parts(&loaded.config);
    let memory = if with_parts { format!("Memory:\n\n{}", memory::as_text(&parts)) } else { memory::in_short(&parts) };
    format!(
        "The settings are valid: {set} of {} are set, the others have their defaults.\n{warnings}\n{memory}",
        loaded.values.len(),
    )
}

/// Lines that could stand in a file as they are, except for what is masked.
fn show(values: &[Valued]) -> String {
    let line = |valued: &Valued| {
        let path = valued.setting.path();
        match valued.shown() {
            serde_json::Value::Null => format!("# {path} is not set\n"),
            value => format!("{path} = {value}  # {}\n", valued.source),
        }
    };
    values.iter().map(line).collect()
}

fn show_json(values: &[Valued]) -> String {
    let object = |valued: &Valued| {
        serde_json::json!({
            "setting": valued.setting.path(),
            "value": valued.shown(),
            "source": valued.source.kind(),
            "from": valued.source.to_string(),
            "secret": valued.setting.is_secret(),
        })
    };
    format!("{}\n", values.iter().map(object).collect::<serde_json::Value>())
}

/// A file that could be used as it is: every setting with its default, commented out.
fn as_toml(settings: &[Setting]) -> String {
    let mut text = String::from(
        "# Settings of Postrider, with their defaults. They are read from postrider.toml (or the file that --config names),\n\
         # overridden by environment variables, overridden by flags.\n",
    );
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = setting.section;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text);
        for line in lines(setting) {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        let _ = writeln!(text, "# Environment: {}", variable(setting));
        if let Some(range) = &setting.range {
            let _ = writeln!(text, "# From {range}.");
        }
        // Without a default there is no value that could be taken as it is.
        let _ = match &setting.default {
            Some(default) => writeln!(text, "# {} = {default}", setting.name),
            None => writeln!(text, "# {} has no default", setting.name),
        };
    }
    text
}

fn as_markdown(settings: &[Setting]) -> String {
    let mut text = String::from(
        "# Settings\n\nGenerated by `postrider config reference --markdown`; change the descriptions where the settings are defined.\n\n\
         Settings are read from `postrider.toml` (or the file that `--config` names), overridden by environment variables,\n\
         overridden by flags. Durations are written `250ms`, `5s`, `10m`, `2h`, `5d`; lists in environment variables as\n\
         `[\"a\",\"b\"]` or `a,b`, an empty list as `[]`.\n\n\
         One rule holds for all of them, wherever they are set. What is blank is refused (leave a setting out to get its\n\
         default), and so are values with line ends, control characters or white space around them, values out of their range,\n\
         and names that nobody knows, also of variables that begin with `POSTRIDER_`. A secret has 32 bytes or more. Each problem\n\
         is told with where it stands. `postrider config check` checks what `serve` would use and prints what memory it can take;\n\
         `postrider config show` prints every value with where it comes from, without secrets.\n\n\
         Beside the settings there are these variables:\n\n",
    );
    for (name, what) in OTHER_VARIABLES.into_iter().chain(OF_CERTIFICATES) {
        let _ = writeln!(text, "* `{name}`: {what}.");
    }
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = setting.section;
            let _ = writeln!(text, "\n## {section}");
        }
        let _ =
            writeln!(text, "\n### `{section}.{}`\n\n{}\n", setting.name, lines(setting).collect::<Vec<_>>().join("\n"));
        let default = setting.default.as_ref().map_or("none".to_owned(), |default| format!("`{default}`"));
        let range = setting.range.as_ref().map_or_else(String::new, |range| format!(" Range: {range}."));
        let _ = writeln!(text, "Environment: `{}`. Default: {default}.{range}", variable(setting));
    }
    text
}

fn as_json(settings: &[Setting]) -> String {
    let list: Vec<_> = settings
        .iter()
        .map(|setting| {
            let default = setting.default.as_deref().and_then(|text| serde_json::from_str(text).ok());
            let description = lines(setting).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            serde_json::json!({
                "section": setting.section,
                "name": setting.name,
                "description": description,
                "environment": variable(setting),
                "default": default.unwrap_or(serde_json::Value::Null),
                "range": setting.range.as_ref().map(|range| [&range.low, &range.high]),
                "secret": setting.is_secret(),
            })
        })
        .collect();
    format!("{}\n", serde_json::Value::from(list))
}

fn lines(setting: &Setting) -> impl Iterator<Item = &str> {
    setting.doc.trim().lines().map(str::trim)
}
