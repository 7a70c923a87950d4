//! A page of the manual that is written in Markdown, as roff.

use std::mem;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A page that is being written.
struct Writer<'a> {
    page: &'a mut Roff,
    /// The heading, paragraph, item, row or code block that is open.
    open: Vec<Inline>,
    font: fn(String) -> Inline,
    in_code: bool,
    in_item: bool,
    /// The names of a table's columns.
    columns: Vec<Vec<Inline>>,
    /// The cells of the open row that have ended.
    cells: Vec<Vec<Inline>>,
}

/// Writes a page's text, whose first heading is `NAME - WHAT IT IS`. A table's row is an entry under its first cell.
pub fn render(text: &str, page: &mut Roff) {
    let mut writer = Writer {
        page,
        open: Vec::new(),
        font: roman,
        in_code: false,
        in_item: false,
        columns: Vec::new(),
        cells: Vec::new(),
    };
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        writer.take(event);
    }
}

impl Writer<'_> {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.in_code => {
                for line in text.lines() {
                    self.page.text([roman(line)]);
                }
            }
            Event::Text(text) => self.open.push((self.font)(text.into_string())),
            Event::Code(text) => self.open.push(bold(text.into_string())),
            Event::SoftBreak | Event::HardBreak => self.open.push(roman(" ")),
            _ => {}
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Paragraph if !self.in_item => self.control("PP", &[]),
            Tag::Item => {
                self.in_item = true;
                self.control("IP", &["\\(bu", "2"]);
            }
            Tag::CodeBlock(_) => {
                self.in_code = true;
                for (name, arguments) in [("PP", &[][..]), ("RS", &["2"]), ("nf", &[])] {
                    self.control(name, arguments);
                }
            }
            Tag::Emphasis => self.font = italic,
            Tag::Strong => self.font = bold,
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => {
                self.control("SH", &["NAME"]);
                self.write();
            }
            TagEnd::Heading(_) => {
                let title = plain(&mem::take(&mut self.open)).to_uppercase();
                self.control("SH", &[&title]);
            }
            TagEnd::Paragraph => self.write(),
            TagEnd::Item => {
                self.write();
                self.in_item = false;
            }
            TagEnd::CodeBlock => {
                self.in_code = false;
                self.control("fi", &[]);
                self.control("RE", &[]);
            }
            TagEnd::Emphasis | TagEnd::Strong => self.font = roman,
            TagEnd::TableCell => self.cells.push(mem::take(&mut self.open)),
            TagEnd::TableHead => self.columns = mem::take(&mut self.cells),
            TagEnd::TableRow => self.end_row(),
            _ => {}
        }
    }

    /// The first cell is the entry's name, and the others say what it is: each after its column's name, if there are several.
    fn end_row(&mut self) {
        let mut cells = mem::take(&mut self.cells).into_iter();
        self.control("TP", &[]);
        self.page.text(cells.next().unwrap_or_default());
        let several = cells.len() > 1;
        for (column, cell) in self.columns.iter().skip(1).zip(cells) {
            if !self.open.is_empty() {
                self.open.push(roman(". "));
            }
            if several {
                self.open.extend(column.iter().cloned());
                self.open.push(roman(": "));
            }
            self.open.extend(cell);
        }
        self.write();
    }

    fn control(&mut self, name: &str, arguments: &[&str]) {
        self.page.control(name, arguments.iter().copied());
    }

    fn write(&mut self) {
        if !self.open.is_empty() {
            self.page.text(mem::take(&mut self.open));
        }
    }
}

fn plain(text: &[Inline]) -> String {
    text.iter()
        .map(|part| match part {
            Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
            Inline::LineBreak => " ",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_markdown_that_the_pages_have() {
        let text = "# name - what it is\n\nOne *two*\n`three`, **four**.\n\n## A `part`\n\n- first\n  more\n- second\n\n```toml\n.a = \"b\"\n\nc\n```\n\n\
                    | a | b |\n|---|---|\n| `x` | y |\n\n| a | b | c |\n|---|---|---|\n| x | y | z |\n\n[page(7)](page.md)\n";
        let mut page = Roff::new();
        render(text, &mut page);
        assert_eq!(
            page.to_roff(),
            ".SH NAME\nname \\- what it is\n.PP\nOne \\fItwo\\fR \\fBthree\\fR, \\fBfour\\fR.\n.SH \"A PART\"\n.IP \\(bu 2\nfirst more\n.IP \\(bu \
             2\nsecond\n.PP\n.RS 2\n.nf\n\\&.a = \"b\"\n\nc\n.fi\n.RE\n.TP\n\\fBx\\fR\ny\n.TP\nx\nb: y. c: z\n.PP\npage(7)\n"
        );
    }
}
