"""`coinbench audit`: are the metrics right, and which number catches an entrant that games them?"""
