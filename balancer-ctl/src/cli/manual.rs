//! man: the pages of the manual. Those of commands are made of their help, that of the configuration file of the tables by which it is
//! read; those about a subject are written in Markdown, in `balancer-ctl/manual`.

mod markdown;

use std::{fs, path::Path};

use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};

use super::{CommandError, arguments::ManPage, balancerd, shown, write};
use crate::{
    config::{
        read::notify::EVENTS,
        reference::{self, SCHEDULERS, Section},
    },
    model::event::EventKind,
    os::paths::DEFAULT_CONFIG,
};

/// What stands at the foot of each page.
const SOURCE: &str = concat!("balancer ", env!("CARGO_PKG_VERSION"));
/// The page of the configuration file.
const CONFIGURATION: &str = "balancer.toml";
/// The pages about a subject.
const SUBJECTS: [(&str, &str); 5] = [
    ("balancer", include_str!("../../manual/balancer.md")),
    (
        "balancer-services",
        include_str!("../../manual/balancer-services.md"),
    ),
    (
        "balancer-health",
        include_str!("../../manual/balancer-health.md"),
    ),
    (
        "balancer-pair",
        include_str!("../../manual/balancer-pair.md"),
    ),
    (
        "balancer-interfaces",
        include_str!("../../manual/balancer-interfaces.md"),
    ),
];
const EXAMPLE: &str = include_str!("../../balancer.toml.example");

/// A page.
struct Page {
    name: String,
    /// The section of the manual: 8 = administration, 5 = files, 7 = about a subject.
    section: &'static str,
    text: Vec<u8>,
}

/// Prints a page, or writes all of them to a folder.
pub fn man(arguments: &ManPage) -> Result<(), CommandError> {
    if let Some(folder) = &arguments.all {
        return write_all(folder);
    }
    let mut tool = tool();
    let page = match arguments.page.as_deref() {
        None | Some("balancer-ctl") => of_command(&tool)?,
        Some("balancerd") => of_command(&balancerd::Arguments::command())?,
        Some(CONFIGURATION) => configuration(),
        Some(name) => match subjects().find(|page| page.name == name) {
            Some(page) => page,
            None => {
                tool.build();
                let command = tool.find_subcommand(name).ok_or_else(|| {
                    CommandError::Usage(format!(
                        "there is no command `{name}`: `balancer-ctl --help` shows all"
                    ))
                })?;
                of_command(command)?
            }
        },
    };
    Ok(write(&String::from_utf8_lossy(&page.text))?)
}

fn write_all(folder: &Path) -> Result<(), CommandError> {
    let mut tool = tool();
    tool.build();
    let mut pages = vec![
        of_command(&balancerd::Arguments::command())?,
        configuration(),
    ];
    pages.extend(subjects());
    add_all(&tool, &mut pages)?;
    let failed = |path: &Path, error| {
        CommandError::Refused(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for Page {
        name,
        section,
        text,
    } in pages
    {
        let path = folder.join(format!("{name}.{section}"));
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// Adds the pages of a command and of all below it.
fn add_all(command: &Command, pages: &mut Vec<Page>) -> Result<(), CommandError> {
    pages.push(of_command(command)?);
    for below in command.get_subcommands() {
        add_all(below, pages)?;
    }
    Ok(())
}

/// The tool without its command `help`, which has no page.
fn tool() -> Command {
    let with_help = |command: Command| command.disable_help_subcommand(true);
    with_help(shown()).mut_subcommands(with_help)
}

fn of_command(command: &Command) -> Result<Page, CommandError> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let mut text = Vec::new();
    let section = "8";
    Man::new(command.clone())
        .title(&name)
        .section(section)
        .source(SOURCE)
        .render(&mut text)?;
    Ok(Page {
        name,
        section,
        text,
    })
}

fn subjects() -> impl Iterator<Item = Page> {
    SUBJECTS.into_iter().map(|(name, text)| {
        let section = "7";
        let mut page = begin(name, section);
        markdown::render(text, &mut page);
        Page {
            name: name.to_owned(),
            section,
            text: page.render().into_bytes(),
        }
    })
}

/// A page with its title.
fn begin(name: &str, section: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", [name, section, "", SOURCE]);
    page
}

fn configuration() -> Page {
    let section = "5";
    let mut page = begin(CONFIGURATION, section);
    heading(&mut page, "Name");
    page.text([roman(
        "balancer.toml - the configuration of balancerd, a load balancer for TCP and UDP",
    )]);
    heading(&mut page, "Synopsis");
    page.text([bold(DEFAULT_CONFIG)]);
    heading(&mut page, "Description");
    page.text(marked(
        "The file is TOML (https://toml.io). A key that is not listed here is an error. A time is a number with its unit, as in `500ms`, `30s` or \
         `1m30s`.",
    ));
    page.control("PP", []);
    page.text(marked(
        "What `balancer-ctl` changes is written to the file, which keeps its comments and its order. After a change by hand `balancer-ctl check FILE` \
         says whether it is good, and `balancer-ctl reload` loads it.",
    ));
    for table in reference::sections() {
        section_of(&mut page, &table);
    }
    heading(&mut page, "Schedulers");
    page.text(marked("The real server that a new connection goes to:"));
    for (name, choice) in SCHEDULERS {
        entry(&mut page, name, choice);
    }
    heading(&mut page, "Events");
    page.text(marked("What `on` in `[[notify]]` may name:"));
    for event in EVENTS {
        entry(&mut page, EventKind::name(event), event.sentence());
    }
    heading(&mut page, "Example");
    page.control("nf", []);
    for line in EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    heading(&mut page, "See also");
    page.text(marked(
        "`balancerd`(8), `balancer-ctl`(8), `balancer`(7), `balancer-services`(7), `balancer-health`(7), `balancer-pair`(7), \
         `balancer-interfaces`(7)",
    ));
    Page {
        name: CONFIGURATION.to_owned(),
        section,
        text: page.render().into_bytes(),
    }
}

fn heading(page: &mut Roff, title: &str) {
    // Tables are named as they are written.
    let title = match title.starts_with('[') {
        true => title.to_owned(),
        false => title.to_uppercase(),
    };
    page.control("SH", [title.as_str()]);
}

fn section_of(page: &mut Roff, table: &Section) {
    heading(page, table.title);
    page.text(marked(table.about));
    for (key, kinds) in &table.keys {
        let of = match kinds.as_slice() {
            [] => String::new(),
            kinds => format!("Of checks of type {}: ", kinds.join(", ")),
        };
        let default = match key.default {
            "must be named" => "It must be named.".to_owned(),
            default => format!("Default: {default}."),
        };
        entry(page, key.name, &format!("{of}{}. {default}", key.what));
    }
}

fn entry(page: &mut Roff, name: &str, text: &str) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text(marked(text));
}

/// A text in which what stands in backquotes is bold.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(|(place, part)| match place % 2 {
            0 => roman(part),
            _ => bold(part),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::model::key::names;

    #[test]
    fn what_is_typed_is_bold() {
        assert_eq!(
            marked("`a` or `b`: c"),
            [bold("a"), roman(" or "), bold("b"), roman(": c")]
        );
    }

    #[test]
    fn the_page_of_the_file_has_each_key_of_each_table() {
        let page = String::from_utf8(configuration().text).unwrap();
        for table in reference::sections() {
            let keys: Vec<_> = table.keys.iter().map(|(key, _)| *key).collect();
            for name in names(&keys) {
                let entry = format!(".TP\n\\fB{}\\fR\n", name.replace('-', "\\-"));
                assert!(page.contains(&entry), "{} lacks {name}", table.title);
            }
        }
    }

    #[test]
    fn each_command_has_a_page() {
        let mut tool = tool();
        tool.build();
        let mut pages = Vec::new();
        add_all(&tool, &mut pages).unwrap();
        let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
        for name in ["balancer-ctl", "balancer-ctl-list", "balancer-ctl-node-key"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(
            !names.iter().any(|name| name.ends_with("help")),
            "{names:?}"
        );
    }

    #[test]
    fn each_page_that_another_names_is_there() {
        let mut tool = tool();
        tool.build();
        let mut pages = vec![
            of_command(&balancerd::Arguments::command()).unwrap(),
            configuration(),
        ];
        pages.extend(subjects());
        add_all(&tool, &mut pages).unwrap();
        let named: Vec<_> = pages
            .iter()
            .map(|page| format!("{}({})", page.name, page.section))
            .collect();
        let reference = Regex::new(r"(balancer[a-z.-]*)`?(\([578]\))").unwrap();
        let readme = include_str!("../../../README.md");
        let texts = SUBJECTS.iter().map(|(_, text)| *text).chain([readme]);
        for text in texts {
            for found in reference.captures_iter(text) {
                let name = format!("{}{}", &found[1], &found[2]);
                assert!(named.contains(&name), "there is no {name}");
            }
        }
    }
}
