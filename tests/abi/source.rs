//! The declarations of the binary interface, and the rows that hold them, read out of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{ForeignItem, Item, UseTree};

/// A folder or file of the tree.
pub fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A number as the source writes it.
pub fn number(text: &str) -> u64 {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => digits.parse(),
    }
    .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What a structure or union is said to look like.
#[derive(Default, Debug)]
pub struct Record {
    pub size: Option<u64>,
    /// Name and offset.
    pub members: BTreeMap<String, u64>,
}

/// What one or more source files declare, and what their rows say.
#[derive(Default)]
pub struct Source {
    /// Constants and GUIDs that are declared.
    pub constants: BTreeSet<String>,
    /// Structures and unions that are declared, with their members.
    pub records: BTreeMap<String, BTreeSet<String>>,
    /// Fields of layers that are declared.
    pub fields: BTreeSet<(String, String)>,
    /// Functions that are defined, and names that `use … as` gives.
    pub functions: BTreeSet<String>,
    /// Functions that are imported: name and image.
    pub imports: BTreeMap<String, String>,
    /// Numbers that rows give: constants, and codes of statuses.
    pub values: BTreeMap<String, u64>,
    /// GUIDs that rows give.
    pub guids: BTreeMap<String, String>,
    /// Structures and unions of rows.
    pub layouts: BTreeMap<String, Record>,
    /// Fields of layers that rows give.
    pub indexes: BTreeSet<(String, String)>,
    /// Names behind `::` in braces within `macro_rules!`: what the façade takes from either kernel.
    pub facade: BTreeSet<String>,
}

impl Source {
    pub fn read(paths: &[&str]) -> Self {
        let mut source = Self::default();
        for path in paths {
            let text = std::fs::read_to_string(tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
            source.items(&file.items);
        }
        source
    }

    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Const(item) if item.ident != "_" && matches!(item.vis, syn::Visibility::Public(_)) => {
                    self.constants.insert(item.ident.to_string());
                }
                Item::Static(item) => {
                    self.constants.insert(item.ident.to_string());
                }
                Item::Struct(item) => {
                    let members = item.fields.iter().filter_map(|field| field.ident.as_ref());
                    self.records.insert(item.ident.to_string(), members.map(ToString::to_string).collect());
                }
                Item::Union(item) => {
                    let members = item.fields.named.iter().filter_map(|field| field.ident.as_ref());
                    self.records.insert(item.ident.to_string(), members.map(ToString::to_string).collect());
                }
                Item::Fn(item) => {
                    self.functions.insert(item.sig.ident.to_string());
                }
                Item::Use(item) => self.functions.extend(new_names(&item.tree)),
                Item::ForeignMod(block) => self.import(block),
                Item::Mod(item) => {
                    self.items(item.content.as_ref().map_or(&[], |(_, items)| items.as_slice()));
                }
                Item::Macro(item) => self.invocation(&item.mac, item.ident.is_some()),
                _ => {}
            }
        }
    }

    fn import(&mut self, block: &syn::ItemForeignMod) {
        let mut image = None;
        for attribute in block.attrs.iter().filter(|attribute| attribute.path().is_ident("link")) {
            let words = attribute.parse_nested_meta(|meta| {
                let value: syn::LitStr = meta.value()?.parse()?;
                if meta.path.is_ident("name") {
                    image = Some(value.value());
                }
                Ok(())
            });
            words.expect("a link attribute of names and strings");
        }
        let image = image.expect("an import says which image it comes from");
        for item in &block.items {
            if let ForeignItem::Fn(function) = item {
                let name = function.sig.ident.to_string();
                let twice = self.imports.insert(name, image.clone());
                assert!(twice.is_none(), "{} is imported twice", function.sig.ident);
            }
        }
    }

    fn invocation(&mut self, call: &syn::Macro, definition: bool) {
        let tokens = call.tokens.clone();
        if definition {
            self.tables(tokens.clone());
            self.renamed(tokens);
            return;
        }
        let name = call.path.segments.last().expect("a macro has a name").ident.to_string();
        match name.as_str() {
            // name: size N, align N { offset member: type, }
            "layout" => {
                for (name, body) in records(tokens) {
                    let members: BTreeMap<String, u64> = split(body.clone())
                        .into_iter()
                        .map(|row| match row.as_slice() {
                            [TokenTree::Literal(offset), TokenTree::Ident(member), ..] => {
                                (member.to_string(), number(&offset.to_string()))
                            }
                            _ => panic!("{name}: not a member: {row:?}"),
                        })
                        .collect();
                    self.records.insert(name.clone(), members.keys().cloned().collect());
                    self.layouts.entry(name).or_default().members.extend(members);
                }
            }
            "ids" => self.constants.extend(assignments(tokens).map(|(name, _)| name)),
            "nt_enum" => {
                for tree in tokens {
                    if let TokenTree::Group(constants) = tree {
                        self.constants.extend(assignments(constants.stream()).map(|(name, _)| name));
                    }
                }
            }
            "fields" => {
                for (layer, body) in named_groups(tokens) {
                    let names = body.into_iter().filter_map(|tree| match tree {
                        TokenTree::Ident(name) => Some(name.to_string()),
                        _ => None,
                    });
                    self.fields.extend(names.map(|name| (layer.clone(), name)));
                }
            }
            "held" => {
                for (kind, body) in named_groups(tokens) {
                    self.rows(&kind, body);
                }
            }
            // Of the NT kernel's rows, and of the simulated kernel's own table of statuses.
            "constants" | "statuses" | "layouts" => {
                self.constants.extend(assignments(tokens.clone()).map(|(name, _)| name));
                self.rows(&name, tokens.clone());
                self.tables(tokens);
            }
            "assert_layout" => self.table(&tokens),
            _ => {}
        }
    }

    fn rows(&mut self, kind: &str, body: TokenStream) {
        match kind {
            "constants" | "statuses" => {
                self.values.extend(assignments(body).map(|(name, value)| (name, number(&value))));
            }
            "guids" => self
                .guids
                .extend(assignments(body).map(|(name, value)| (name, value.trim_matches('"').to_owned()))),
            "fields" => {
                for (layer, body) in named_groups(body) {
                    self.indexes.extend(assignments(body).map(|(field, _)| (layer.clone(), field)));
                }
            }
            "layouts" => {
                for (name, body) in records(body) {
                    let record = self.layouts.entry(name).or_default();
                    record.members.extend(members(body));
                }
            }
            other => panic!("rows of an unknown kind: {other}"),
        }
    }

    /// Rows of the form `…!(name, size, align, { member: offset })`, wherever they are in the tokens.
    fn tables(&mut self, tokens: TokenStream) {
        for tree in tokens {
            if let TokenTree::Group(group) = tree {
                self.table(&group.stream());
                self.tables(group.stream());
            }
        }
    }

    fn table(&mut self, tokens: &TokenStream) {
        let row = split(tokens.clone());
        let [name, size, _, body] = row.as_slice() else { return };
        let ([TokenTree::Ident(name)], [TokenTree::Literal(size)], [TokenTree::Group(body)]) =
            (name.as_slice(), size.as_slice(), body.as_slice())
        else {
            return;
        };
        let record = self.layouts.entry(name.to_string()).or_default();
        record.size = Some(number(&size.to_string()));
        record.members.extend(members(body.stream()));
    }

    fn renamed(&mut self, tokens: TokenStream) {
        let mut after_path = false;
        for tree in tokens {
            match tree {
                TokenTree::Group(group) if after_path && group.delimiter() == Delimiter::Brace => {
                    let names = split(group.stream()).into_iter().map(|name| match name.as_slice() {
                        [TokenTree::Ident(name)] => name.to_string(),
                        other => panic!("not a name: {other:?}"),
                    });
                    self.facade.extend(names);
                }
                TokenTree::Group(group) => {
                    self.renamed(group.stream());
                    after_path = false;
                }
                TokenTree::Punct(mark) => after_path = mark.as_char() == ':',
                _ => after_path = false,
            }
        }
    }
}

/// The names that a `use` gives by `as`.
fn new_names(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => new_names(&path.tree),
        UseTree::Group(group) => group.items.iter().flat_map(new_names).collect(),
        UseTree::Rename(rename) => vec![rename.rename.to_string()],
        UseTree::Name(_) | UseTree::Glob(_) => Vec::new(),
    }
}

/// The parts between commas, without the empty ones and without attributes; a semicolon separates too.
fn split(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut parts = vec![Vec::new()];
    let mut tokens = tokens.into_iter();
    while let Some(tree) = tokens.next() {
        match tree {
            TokenTree::Punct(mark) if matches!(mark.as_char(), ',' | ';') => parts.push(Vec::new()),
            TokenTree::Punct(mark) if mark.as_char() == '#' => drop(tokens.next()),
            tree => parts.last_mut().expect("there is one").push(tree),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// `name = value` or `name: offset` between commas.
fn pairs(tokens: TokenStream, between: char) -> impl Iterator<Item = (String, String)> {
    split(tokens).into_iter().filter_map(move |part| match part.as_slice() {
        [TokenTree::Ident(name), TokenTree::Punct(mark), TokenTree::Literal(value)]
            if mark.as_char() == between =>
        {
            Some((name.to_string(), value.to_string()))
        }
        _ => None,
    })
}

fn assignments(tokens: TokenStream) -> impl Iterator<Item = (String, String)> {
    pairs(tokens, '=')
}

fn members(tokens: TokenStream) -> impl Iterator<Item = (String, u64)> {
    pairs(tokens, ':').map(|(name, offset)| (name, number(&offset)))
}

/// `name { … }`, again and again.
fn named_groups(tokens: TokenStream) -> Vec<(String, TokenStream)> {
    let mut groups = Vec::new();
    let mut last = None;
    for tree in tokens {
        match tree {
            TokenTree::Ident(name) => last = Some(name.to_string()),
            TokenTree::Group(group) => groups.extend(last.take().map(|name| (name, group.stream()))),
            _ => last = None,
        }
    }
    groups
}

/// `name: size N, align N { … }`, again and again.
fn records(tokens: TokenStream) -> Vec<(String, TokenStream)> {
    let mut found = Vec::new();
    let (mut before, mut name) = (None, None);
    for tree in tokens {
        match tree {
            TokenTree::Ident(word) if word == "size" => name = before.take(),
            TokenTree::Ident(word) if name.is_none() => before = Some(word.to_string()),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                found.extend(name.take().map(|name| (name, group.stream())));
            }
            _ => {}
        }
    }
    found
}
