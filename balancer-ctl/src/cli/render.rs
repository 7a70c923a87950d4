//! Tables, colours and numbers for people. Pure.

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr as _;

/// How good what a word says is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it always should be, or wanted so for a while.
    Notable,
    /// Something does not work.
    Bad,
}

impl Tone {
    /// The word in the colour of this tone, with the terminal's escape sequences.
    pub fn paint(self, word: &str) -> String {
        let color = match self {
            Self::Good => AnsiColor::Green,
            Self::Notable => AnsiColor::Yellow,
            Self::Bad => AnsiColor::Red,
        };
        let style = Style::new().fg_color(Some(color.into()));
        format!("{style}{word}{style:#}")
    }
}

/// Columns of a terminal that a text takes: none for escape sequences, two for a wide character.
fn width_of(text: &str) -> usize {
    strip_str(text).to_string().width()
}

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Space between columns.
const GAP: &str = "  ";

/// Formats rows, each column as wide as its widest cell; a row may have fewer cells than others.
pub fn table(align: &[Align], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| width_of(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..align.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(align.iter().zip(&widths))
            .map(|(cell, (align, width))| {
                let space = " ".repeat(width - width_of(cell));
                match align {
                    Align::Left => format!("{cell}{space}"),
                    Align::Right => format!("{space}{cell}"),
                }
            })
            .collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// All digits.
    Exact,
    /// Three digits and a unit from 1000 on: 1.23K, 45.6M.
    Scaled,
}

impl Numbers {
    /// Writes a number, rounded down.
    pub fn write(self, number: u64) -> String {
        if self == Self::Exact || number < 1000 {
            return number.to_string();
        }
        let mut unit = 1;
        let mut units = "KMGTPE".chars();
        let mut letter = ' ';
        while number / unit >= 1000
            && let Some(next) = units.next()
        {
            unit *= 1000;
            letter = next;
        }
        let whole = number / unit;
        match whole {
            0..10 => format!("{whole}.{:02}{letter}", number % unit / (unit / 100)),
            10..100 => format!("{whole}.{}{letter}", number % unit / (unit / 10)),
            100.. => format!("{whole}{letter}"),
        }
    }
}

/// A number with its noun.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let rows =
            ["a 1 x", "long 234", "é 5 y"].map(|row| row.split(' ').map(str::to_owned).collect());
        assert_eq!(
            table(&[Align::Left, Align::Right, Align::Left], &rows),
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
            table(&[Align::Left, Align::Left], &rows),
            "\u{1b}[31mdown\u{1b}[0m    a\n\
             \u{6771}\u{4eac}\u{6771}  b\n\
             e\u{301}       c\n"
        );
    }

    #[test]
    fn numbers_are_scaled_without_rounding_up() {
        for (number, scaled) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00K"),
            (1_239, "1.23K"),
            (12_399, "12.3K"),
            (123_999, "123K"),
            (999_999, "999K"),
            (1_000_000, "1.00M"),
            (45_678_901, "45.6M"),
            (9_999_999_999, "9.99G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(Numbers::Scaled.write(number), scaled);
            assert_eq!(Numbers::Exact.write(number), number.to_string());
        }
    }
}
