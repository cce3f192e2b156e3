//! SPDX licence expressions: may this be used if only these licences are allowed?

/// Whether `expression` can be satisfied with allowed licences. An error says what is not understood.
pub fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool, String> {
    // Old manifests write `MIT/Apache-2.0` for OR.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut parser = Parser { words: text.split_whitespace().peekable(), allowed };
    let verdict =
        parser.or().map_err(|word| format!("`{expression}` is no licence expression (at `{word}`)"))?;
    match parser.words.next() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{expression}` is no licence expression (at `{word}`)")),
    }
}

struct Parser<'a, I: Iterator<Item = &'a str>> {
    words: std::iter::Peekable<I>,
    allowed: &'a [String],
}

impl<'a, I: Iterator<Item = &'a str>> Parser<'a, I> {
    /// AND binds stronger than OR. Both sides are always read: an error behind a satisfied half is still an error.
    fn or(&mut self) -> Result<bool, String> {
        let mut verdict = self.and()?;
        while self.words.next_if_eq(&"OR").is_some() {
            verdict |= self.and()?;
        }
        Ok(verdict)
    }

    fn and(&mut self) -> Result<bool, String> {
        let mut verdict = self.licence()?;
        while self.words.next_if_eq(&"AND").is_some() {
            verdict &= self.licence()?;
        }
        Ok(verdict)
    }

    fn licence(&mut self) -> Result<bool, String> {
        match self.words.next() {
            Some("(") => {
                let verdict = self.or()?;
                match self.words.next() {
                    Some(")") => Ok(verdict),
                    other => Err(other.unwrap_or("the end").to_owned()),
                }
            }
            None => Err("the end".to_owned()),
            Some(word @ (")" | "AND" | "OR" | "WITH")) => Err(word.to_owned()),
            Some(name) => {
                let mut name = name.to_owned();
                if self.words.next_if_eq(&"WITH").is_some() {
                    let exception = self.words.next().ok_or("the end")?;
                    name = format!("{name} WITH {exception}");
                }
                Ok(self.allowed.contains(&name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(expression: &str) -> Result<bool, String> {
        let list = ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        is_allowed(expression, &list)
    }

    #[test]
    fn one_side_of_or_is_enough_and_both_of_and_are_needed() {
        assert_eq!(allowed("MIT"), Ok(true));
        assert_eq!(allowed("GPL-3.0 OR MIT"), Ok(true));
        assert_eq!(allowed("GPL-3.0 AND MIT"), Ok(false));
        assert_eq!(allowed("GPL-3.0/MIT"), Ok(true));
        assert_eq!(allowed("ISC AND (Apache-2.0 OR GPL-3.0)"), Ok(true));
        assert_eq!(allowed("MIT OR ISC AND GPL-3.0"), Ok(true));
        assert_eq!(allowed("(MIT OR ISC) AND GPL-3.0"), Ok(false));
    }

    #[test]
    fn an_exception_is_part_of_the_licence() {
        assert_eq!(allowed("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(allowed("MIT WITH LLVM-exception"), Ok(false));
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for text in
            ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT OR (ISC AND)", "Apache-2.0 WITH"]
        {
            assert!(allowed(text).is_err(), "{text}");
        }
    }
}
