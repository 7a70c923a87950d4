//! Tables, which fit a terminal where there is one: what is too wide goes on below its row, and words are never torn. Pure.

use std::borrow::Cow;

use super::render::width_of;

/// How the cells of a column are aligned, and what happens to them where the table is wider than the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Aligned to the left, and shown whole.
    Left,
    /// Aligned to the right, and shown whole.
    Right,
    /// Words, which may take several lines.
    Text,
    /// An address, perhaps with a name in parentheses behind it, which may be shortened.
    Named,
}

/// Space between columns.
const GAP: &str = "  ";
/// How far what goes on below its row is indented.
const INDENT: usize = 6;
/// The least width of a column of words, unless all its cells are narrower.
const MIN_TEXT: usize = 24;
/// A column of addresses with names is not shortened below this width.
const MIN_NAMED: usize = 32;
/// How many letters of a name remain at least.
const MIN_NAME: usize = 8;

/// The columns that stand beside each other, each with its width; those of the second line and of later ones are below the row.
pub type Layout = Vec<Vec<(usize, usize)>>;

/// Formats rows, each column as wide as its widest cell; a row may have fewer cells than others. Where that is wider than `width`
/// columns of a terminal, names are shortened, and columns go on below their rows.
pub fn table(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> String {
    let widths = widths(columns, rows);
    let narrow = width.filter(|width| !fits(&widths, *width));
    let Some(width) = narrow else {
        return lines(
            columns,
            rows,
            &vec![widths.into_iter().enumerate().collect()],
        );
    };
    let mut rows = rows.to_vec();
    for (index, _) in columns
        .iter()
        .enumerate()
        .filter(|(_, column)| **column == Column::Named)
    {
        shorten_names(
            rows.iter_mut()
                .filter_map(|row| row.get_mut(index))
                .collect(),
        );
    }
    let layout = layout(columns, &self::widths(columns, &rows), width);
    lines(columns, &rows, &layout)
}

/// Whether a table is at most `width` columns of a terminal wide.
pub fn is_fitting(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> bool {
    width.is_none_or(|width| fits(&widths(columns, rows), width))
}

/// The width of each column's widest cell.
fn widths(columns: &[Column], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| width_of(cell)).max().unwrap_or(0)
    };
    (0..columns.len()).map(width).collect()
}

/// Whether columns of these widths fit beside each other.
fn fits(widths: &[usize], width: usize) -> bool {
    // Behind the last column that is not empty there is no gap.
    let gaps = widths.iter().rposition(|width| *width > 0).unwrap_or(0);
    widths.iter().sum::<usize>() + GAP.len() * gaps <= width
}

/// Puts columns of these widths beside each other as long as they fit into `width`, the others below.
pub fn layout(columns: &[Column], widths: &[usize], width: usize) -> Layout {
    let mut layout = Layout::from([Vec::new()]);
    let (mut line, mut used) = (0, 0);
    for (index, (column, own)) in columns.iter().zip(widths).enumerate() {
        let least = match column {
            Column::Text => MIN_TEXT.min(*own),
            Column::Left | Column::Right | Column::Named => *own,
        };
        let mut gap = if layout[line].is_empty() {
            0
        } else {
            GAP.len()
        };
        if used + gap + least > width && gap > 0 {
            layout.push(Vec::new());
            (line, used, gap) = (line + 1, INDENT, 0);
        }
        let left = width.saturating_sub(used + gap);
        let given = (*own).min(left.max(least));
        let given = if *column == Column::Text { given } else { *own };
        layout[line].push((index, given));
        used += gap + given;
    }
    layout
}

/// The lines of all rows.
fn lines(columns: &[Column], rows: &[Vec<String>], layout: &Layout) -> String {
    let mut text = String::new();
    for row in rows {
        for (number, line) in layout.iter().enumerate() {
            let cells: Vec<_> = line
                .iter()
                .map(|(column, width)| {
                    let cell = row.get(*column).map_or("", String::as_str);
                    let parts = match columns[*column] {
                        Column::Text => wrapped(cell, *width),
                        Column::Left | Column::Right | Column::Named => vec![cell.into()],
                    };
                    (parts, columns[*column], *width)
                })
                .collect();
            let height = cells.iter().map(|(parts, ..)| parts.len()).max();
            for part in 0..height.unwrap_or(0) {
                let padded = cells.iter().map(|(parts, column, width)| {
                    let cell = parts.get(part).map_or("", AsRef::as_ref);
                    let space = " ".repeat(width.saturating_sub(width_of(cell)));
                    match column {
                        Column::Right => format!("{space}{cell}"),
                        Column::Left | Column::Text | Column::Named => format!("{cell}{space}"),
                    }
                });
                let padded = padded.collect::<Vec<_>>().join(GAP);
                let padded = padded.trim_end();
                // Below a row stands only what it has there.
                if number == 0 || !padded.is_empty() {
                    text.push_str(&" ".repeat(indent(number)));
                    text.push_str(padded);
                    text.push('\n');
                }
            }
        }
    }
    text
}

/// How far a line of a layout is indented.
pub const fn indent(line: usize) -> usize {
    if line == 0 { 0 } else { INDENT }
}

/// A text in lines of at most `width` columns; a word that is longer has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<Cow<'_, str>> {
    if width_of(text) <= width {
        return vec![text.into()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width_of(line) + 1 + width_of(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(Cow::from).collect()
}

/// A text in lines of at most `width` columns, all but the first indented; one line without a width.
pub fn paragraph(text: &str, width: Option<usize>) -> Vec<String> {
    const INDENT: &str = "  ";
    let Some(width) = width.filter(|width| width_of(text) > *width) else {
        return vec![text.to_owned()];
    };
    let lines = wrapped(text, width.saturating_sub(INDENT.len()));
    let lines = lines.into_iter().enumerate();
    lines
        .map(|(number, line)| match number {
            0 => line.into_owned(),
            _ => format!("{INDENT}{line}"),
        })
        .collect()
}

/// Shortens the names in the cells of a column to the width of the widest address, or to [`MIN_NAMED`].
fn shorten_names(cells: Vec<&mut String>) {
    let addresses = cells
        .iter()
        .map(|cell| parts(cell).map_or(cell.as_str(), |(address, _)| address));
    let widest = addresses.map(width_of).max();
    let width = widest.unwrap_or(0).max(MIN_NAMED);
    for cell in cells {
        let Some((address, name)) = parts(cell).filter(|_| width_of(cell) > width) else {
            continue;
        };
        let left = width.saturating_sub(width_of(address) + width_of(" (…)"));
        let left = left.max(MIN_NAME);
        if name.chars().count() > left {
            let begin: String = name.chars().take(left).collect();
            *cell = format!("{address} ({begin}…)");
        }
    }
}

/// The address in a cell, and the name in parentheses behind it.
fn parts(cell: &str) -> Option<(&str, &str)> {
    cell.strip_suffix(')')?.split_once(" (")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::Tone;

    const COLUMNS: [Column; 4] = [Column::Named, Column::Right, Column::Left, Column::Text];

    fn rows() -> Vec<Vec<String>> {
        [
            ["Server", "Weight", "State", "Reason"],
            [
                "[2001:db8:1:2:3:4:5:6]:65535",
                "1",
                "down",
                "http: status 503 after 12 ms, wanted one of 200-299, for 3 probes in a row",
            ],
            ["10.0.0.2:80", "65535", "up", ""],
        ]
        .map(|row| row.map(str::to_owned).to_vec())
        .to_vec()
    }

    /// The table at a width; no line may be wider.
    #[track_caller]
    fn at(width: usize, rows: &[Vec<String>]) -> String {
        let text = table(&COLUMNS, rows, Some(width));
        let widest = text.lines().map(width_of).max();
        assert!(widest <= Some(width), "{text}");
        text
    }

    #[test]
    fn columns_are_aligned_and_as_wide_as_their_widest_cells() {
        let rows =
            ["a 1 x", "long 234", "é 5 y"].map(|row| row.split(' ').map(str::to_owned).collect());
        assert_eq!(
            table(&[Column::Left, Column::Right, Column::Left], &rows, None),
            "a       1  x\n\
             long  234\n\
             é       5  y\n"
        );
    }

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_their_cells() {
        let rows = [
            vec![Tone::Bad.paint("down"), "a".to_owned()],
            vec!["\u{6771}\u{4eac}\u{6771}".to_owned(), "b".to_owned()],
            vec!["e\u{301}".to_owned(), "c".to_owned()],
        ];
        assert_eq!(
            table(&[Column::Left, Column::Left], &rows, None),
            "\u{1b}[31mdown\u{1b}[0m    a\n\
             \u{6771}\u{4eac}\u{6771}  b\n\
             e\u{301}       c\n"
        );
    }

    #[test]
    fn a_table_that_fits_is_the_same_with_and_without_a_terminal() {
        let whole = table(&COLUMNS, &rows(), None);
        assert_eq!(whole.lines().nth(1).map(width_of), Some(119));
        assert_eq!(at(119, &rows()), whole);
        assert_ne!(at(118, &rows()), whole);
        assert!(is_fitting(&COLUMNS, &rows(), None));
        assert!(is_fitting(&COLUMNS, &rows(), Some(119)));
        assert!(!is_fitting(&COLUMNS, &rows(), Some(118)));
    }

    #[test]
    fn words_take_several_lines_where_the_terminal_is_narrower() {
        assert_eq!(
            at(80, &rows()),
            "\
Server                        Weight  State  Reason
[2001:db8:1:2:3:4:5:6]:65535       1  down   http: status 503 after 12 ms,
                                             wanted one of 200-299, for 3 probes
                                             in a row
10.0.0.2:80                    65535  up
"
        );
        assert_eq!(
            at(60, &rows()),
            "\
Server                        Weight  State
      Reason
[2001:db8:1:2:3:4:5:6]:65535       1  down
      http: status 503 after 12 ms, wanted one of 200-299,
      for 3 probes in a row
10.0.0.2:80                    65535  up
"
        );
        assert_eq!(
            at(40, &rows()),
            "\
Server                        Weight
      State  Reason
[2001:db8:1:2:3:4:5:6]:65535       1
      down   http: status 503 after 12
             ms, wanted one of 200-299,
             for 3 probes in a row
10.0.0.2:80                    65535
      up
"
        );
    }

    #[test]
    fn numbers_and_addresses_stay_whole_however_narrow_the_terminal() {
        let text = table(&COLUMNS, &rows(), Some(1));
        for whole in ["[2001:db8:1:2:3:4:5:6]:65535", "10.0.0.2:80", "65535"] {
            assert!(text.split_whitespace().any(|word| word == whole), "{text}");
        }
    }

    #[test]
    fn long_names_are_shortened_behind_their_addresses() {
        let named = |cell: &str| {
            let rows = [vec![cell.to_owned(), "x ".repeat(60)]];
            let text = table(&[Column::Named, Column::Text], &rows, Some(80));
            let (first, _) = text.split_once(" x").unwrap();
            first.trim_end().to_owned()
        };
        for (cell, shown) in [
            ("tcp/192.0.2.80:80 (web)", "tcp/192.0.2.80:80 (web)"),
            (
                "tcp/192.0.2.80:80 (abcdefghijk)",
                "tcp/192.0.2.80:80 (abcdefghijk)",
            ),
            (
                "tcp/192.0.2.80:80 (abcdefghijklm)",
                "tcp/192.0.2.80:80 (abcdefghijk…)",
            ),
            (
                "udp/[2001:db8:1:2:3:4:5:6]:53 (authoritative)",
                "udp/[2001:db8:1:2:3:4:5:6]:53 (authorit…)",
            ),
            (
                "udp/[2001:db8:1:2:3:4:5:6]:53 (resolver)",
                "udp/[2001:db8:1:2:3:4:5:6]:53 (resolver)",
            ),
            (
                "  -> [2001:db8:1111:2222:3333:4444:5555:6666]:65535",
                "  -> [2001:db8:1111:2222:3333:4444:5555:6666]:65535",
            ),
        ] {
            assert_eq!(named(cell), shown);
        }
    }

    #[test]
    fn a_paragraph_is_indented_from_its_second_line_on() {
        let text = "no interface carries VIP 192.0.2.1: `ip address add`";
        assert_eq!(paragraph(text, None), [text]);
        assert_eq!(paragraph(text, Some(52)), [text]);
        assert_eq!(
            paragraph(text, Some(30)),
            ["no interface carries VIP", "  192.0.2.1: `ip address add`"]
        );
    }
}
