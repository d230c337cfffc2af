"""The zoomable map of memory in a notebook, and the pictures of it without one.

::

    Snapshot ─► content (runs, codes, colours) ─┐
             ─► line (gaps folded away) ────────┴─► Scene ─► cells ─► MemoryMap ─► map.js
                                                      └────────────► still (SVG)

Everything but the last step is arrays in and arrays out and runs without a browser. The
browser gets what is on the screen and no more: three bytes a cell.

===========  ================================================================================
folded       a snapshot held as extents; a few rows cut out of a large one
content      what pages of a process are, as runs with a code
physical     what page frames are, likewise
line         one long line of pages, empty stretches folded away
cells        a window of the line counted into cells: the one pass that a zoom step costs
scene        the view model: answers to ``cells``, ``tell`` and ``pages``
telling      one page of a large snapshot in words
still        a scene as SVG, for where there is no widget host
live         look again and again, until told to stop
memorymap    `MemoryMap`: the anywidget; map.js and map.css are its other half
===========  ================================================================================

`MemoryMap` needs anywidget (the extra ``widgets``); nothing else here does.
"""
