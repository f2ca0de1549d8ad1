"""`trio-ipv4 doctor`: why does this group not arrive?"""
