"""Memory and its rules, by the names that they have in the kernel's ``mm/``.

``hardware`` has page frames and ``swapfile`` swap slots, ``pagetable`` the entries, ``vma``
mappings and address spaces, ``files`` the page cache; ``kernel`` holds one of each of these and
what all rules need of them. Everything else is a rule: what a fault does (``fault``, with
``anonfault``, ``filefault``, ``hugetlb``, ``thp``), what calls do to mappings (``mmap``,
``mremap``, ``madvise``, ``fork``, ``zap``), and where pages go meanwhile (``reclaim``,
``pageout``, ``readahead``, ``swapoff``, ``ksm``). None of them knows of processes.
"""
