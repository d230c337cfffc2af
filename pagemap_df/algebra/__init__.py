"""What the answers are made with: from columns to sets of holders, sizes and coverage.

``arrays`` takes nullable columns apart, ``view`` is the tables of a snapshot as arrays, each
made once; ``figures`` adds up sizes, ``holders`` finds the set of processes behind each frame,
``grouping`` puts processes into groups, ``cow`` and ``hugepages`` compare entries with those
of a parent and of a huge page, ``quick`` sums up one live process without a table of its pages.
``answers`` makes the tables that go out.

`sharing`, `swapping`, `changes`, `layout` and `story` ask the questions; nothing in here does.
"""
