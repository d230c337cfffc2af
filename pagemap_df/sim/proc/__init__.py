"""What a machine shows of itself, as the kernel's ``fs/proc`` does: text, and 64-bit words.

``proctree`` writes the text files, ``smaps`` the figures of mappings. ``words`` makes the words
of pagemap and kpage*; ``pagemap_file`` is the open file of any era, which reads them by a
``walk``, and ``pagemap_scan`` its ioctl.
"""
